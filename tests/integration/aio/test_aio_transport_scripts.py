"""The transport's scripts for leases and unacknowledged messages, each on its own."""

from typing import Any

import pytest

from worker.aio.transport.scripts import (
    COUNT_PARKED,
    DROP_PARKED,
    EXPIRED,
    FORGET,
    GIVE_BACK,
    RENEW,
    UPDATE_ENTRY,
)

MB = 1_000_000
PATIENCE_S = 450


def run(books: Any, script: str, keys: list[str], *arguments: Any) -> Any:
    return books.eval(script, len(keys), *keys, *arguments)


def now_s(books: Any) -> float:
    seconds, us = books.time()
    return float(seconds + us / 1e6)


def expired(books: Any, *, most: int = 100, round_s: int = MB, first: int = 1) -> Any:
    keys = ["pulse", "leases", "unacked"]
    return run(books, EXPIRED, keys, PATIENCE_S, most, round_s, first)


def listed(books: Any, **more: Any) -> list[str]:
    """Return the tags of the messages whose leases have ended."""
    return list(expired(books, **more)[2::3])


def test_messages_whose_leases_have_ended_are_listed_with_their_entries(books: Any) -> None:
    at_s = now_s(books)
    books.zadd(
        "leases", {"released": 0, "dead": 7.25, "gone": 8, "just": at_s - 0.01, "held": at_s + 60}
    )
    entries = {"released": "its", "dead": "of the dead", "just": "now", "held": "of a living one"}
    books.hset("unacked", mapping=entries)
    now, workers, *parts = expired(books)
    assert at_s - 0.001 <= float(now) <= now_s(books) + 0.001
    assert workers == 1
    assert parts[:6] == ["released", "its", "0", "dead", "of the dead", "7.25"]
    assert parts[6:8] == ["just", "now"]
    assert len(parts) == 9
    assert sorted(books.zrange("leases", 0, -1)) == ["dead", "held", "just", "released"]
    assert books.hgetall("unacked") == entries, "the entries stay where they are"


def test_a_worker_that_looks_several_times_is_counted_once(books: Any) -> None:
    assert [int(expired(books, first=first)[1]) for first in (0, 1, 0, 1)] == [0, 1, 1, 2]


def test_no_more_are_listed_than_asked_for(books: Any) -> None:
    books.zadd("leases", {str(number): number for number in range(1, 5)})
    books.hset("unacked", mapping={str(number): "x" for number in range(1, 5)})
    assert listed(books, most=3) == ["1", "2", "3"]


@pytest.mark.parametrize(("size", "more"), [(4 * MB, ["2"]), (4 * MB + 1, [])])
def test_of_large_messages_fewer_are_listed(books: Any, size: int, more: list[str]) -> None:
    books.zadd("leases", {"1": 1, "2": 2})
    books.hset("unacked", mapping={"1": "x" * size, "2": "x"})
    assert listed(books) == ["1", *more]


# How long all workers were silent, until when no worker was to be given up (in seconds from now),
# and for how long none is given up now; None means that dead workers are given up.
@pytest.mark.parametrize(
    ("silent_s", "held_s", "hold_s"),
    [
        (None, None, None),
        (PATIENCE_S - 10, None, None),
        (PATIENCE_S + 10, None, PATIENCE_S),
        (PATIENCE_S + 10, PATIENCE_S + 50, PATIENCE_S + 50),
        (PATIENCE_S + 10, 10, PATIENCE_S),
        (5, 10, 10),
        (5, -10, None),
        (-0.9, PATIENCE_S + 50, PATIENCE_S + 50),  # the clock is not set back by that
        (-20, PATIENCE_S + 50, PATIENCE_S),
        (-20, 10, 10),
    ],
)
def test_after_a_silence_of_all_only_released_messages_are_listed(
    books: Any, silent_s: float | None, held_s: float | None, hold_s: float | None
) -> None:
    at_s = now_s(books)
    books.zadd("leases", {"released": 0, "dead": 1})
    books.hset("unacked", mapping={"released": "x", "dead": "x"})
    if silent_s is not None:
        books.hset("pulse", "heard", at_s - silent_s)
    if held_s is not None:
        books.hset("pulse", "hold_until", at_s + held_s)
    assert listed(books) == (["released", "dead"] if hold_s is None else ["released"])
    heard_s, until_s = map(float, books.hmget("pulse", "heard", "hold_until"))
    assert at_s - 0.001 <= heard_s <= now_s(books) + 0.001
    if hold_s is not None:
        assert at_s + hold_s - 0.001 <= until_s <= now_s(books) + hold_s + 0.001


# By how much the clock was set back; in how many seconds a lease ends, before and after.
@pytest.mark.parametrize(
    ("back_s", "before_s", "after_s"),
    [
        (3_600, 3_600 + 500, 500),
        (3_600, 3_600 - 2 * PATIENCE_S + 9, -2 * PATIENCE_S + 9),  # of a dead worker
        (3_600, 3_600 - 2 * PATIENCE_S - 9, 3_600 - 2 * PATIENCE_S - 9),  # no lease ended so early
        (3_600, 890, 890),  # taken after the clock was set
        (500, 2 * PATIENCE_S + 9, 2 * PATIENCE_S + 9 - 500),
        (500, 2 * PATIENCE_S - 9, 2 * PATIENCE_S - 9),  # a lease taken since then ends so late
        (0.9, 5_000, 5_000),
    ],
)
def test_if_the_clock_was_set_back_leases_of_before_are_set_back_too(
    books: Any, back_s: float, before_s: float, after_s: float
) -> None:
    at_s = now_s(books)
    books.zadd("leases", {"a": at_s + before_s, "b": at_s + before_s + 1})
    books.hset("unacked", mapping={"a": "x", "b": "x"})
    books.hset("pulse", "heard", at_s + back_s)
    expired(books)
    took_s = now_s(books) - at_s
    ends_s = [score - at_s for _, score in books.zrange("leases", 0, -1, withscores=True)]
    assert ends_s == pytest.approx([after_s, after_s + 1], abs=took_s + 0.002)


def test_a_lease_is_renewed_if_there_is_one_and_the_index_with_it(books: Any) -> None:
    books.zadd("leases", {"a": 1, "b": 2, "other": 3})
    books.zadd("index", {"a": 1, "other": 3})
    before_s = now_s(books)
    run(books, RENEW, ["pulse", "leases", "index"], 30, 60, "1234.5", "a", "b", "gone")
    ends = dict(books.zrange("leases", 0, -1, withscores=True))
    assert set(ends) == {"a", "b", "other"}
    assert before_s + 59.999 <= ends["a"] == ends["b"] <= now_s(books) + 60.001
    assert ends["other"] == 3
    assert dict(books.zrange("index", 0, -1, withscores=True)) == {"a": 1234.5, "other": 3}
    assert float(books.hget("pulse", "heard")) == pytest.approx(ends["a"] - 60)


def test_of_an_acknowledged_message_nothing_is_kept(books: Any) -> None:
    for tag in "abc":
        books.hset("unacked", tag, "x")
        for key in ("index", "leases"):
            books.zadd(key, {tag: 1})
    assert run(books, FORGET, ["unacked", "index", "leases"], "a", "c", "gone") == 2
    kept = (books.hkeys("unacked"), books.zrange("index", 0, -1), books.zrange("leases", 0, -1))
    assert kept == (["b"], ["b"], ["b"])


BACK = ["unacked", "index", "leases", "unreadable"]


def given_back(books: Any, before: str, *messages: tuple[Any, ...]) -> int:
    arguments = [part for message in messages for part in message]
    return int(run(books, GIVE_BACK, [*BACK, "q", "r"], before, *arguments))


@pytest.fixture
def held(books: Any) -> Any:
    """Three messages whose leases end in this order; a fourth one has no lease."""
    for number, tag in enumerate("abcd", 1):
        books.hset("unacked", tag, "entry")
        books.zadd("index", {tag: 1})
        if tag != "d":
            books.zadd("leases", {tag: 10 * number})
    return books


def test_messages_go_back_to_where_they_are_taken_next(held: Any) -> None:
    held.rpush("q", "next")
    assert given_back(held, "", ("d", "D", 2, 5, 6), ("gone", "G", 1, 5), ("a", "A", 1, 5)) == 2
    assert (held.lrange("q", 0, -1), held.lrange("r", 0, -1)) == (["next", "D", "A"], ["D"])
    assert held.hkeys("unacked") == ["b", "c"]
    assert held.zrange("index", 0, -1) == held.zrange("leases", 0, -1) == ["b", "c"]


def test_only_messages_whose_leases_ended_by_an_instant_go_back(held: Any) -> None:
    back = [(tag, tag.upper(), 1, 5) for tag in "dcba"]
    assert given_back(held, "20", *back) == 2
    assert held.lrange("q", 0, -1) == ["B", "A"]
    assert held.hkeys("unacked") == ["c", "d"]
    assert given_back(held, "20", *back) == 0


def test_an_entry_that_is_not_a_message_is_set_aside_when_it_goes_back(held: Any) -> None:
    held.rpush("unreadable", *["older"] * 10_000)
    assert given_back(held, "", ("a", "x" * 9_000, 1, 4), ("b", "B", 1, 6)) == 2
    assert held.lrange("unreadable", 0, 1) == ["x" * 8_192, "older"]
    assert (held.llen("unreadable"), held.lrange("r", 0, -1)) == (10_000, ["B"])


def test_the_entry_of_a_message_is_replaced_while_it_is_there(held: Any) -> None:
    run(held, UPDATE_ENTRY, ["unacked"], "a", "new")
    run(held, UPDATE_ENTRY, ["unacked"], "gone", "new")
    assert held.hgetall("unacked") == {"a": "new", "b": "entry", "c": "entry", "d": "entry"}


def test_lines_are_counted_and_dropped_with_the_entries_of_their_messages(held: Any) -> None:
    held.zadd("q.tenants", {"one": 1, "two": 2})
    held.rpush("q.tenant.one", "5 a", "5 gone")
    held.rpush("q.tenant.two", "5 b")
    held.zadd("r.tenants", {"one": 1})
    held.rpush("r.tenant.one", "5 c")
    held.zadd("r.tenants.past", {"two": 1})
    held.hset("r.tenants.memo", "at", 1)
    held.zadd("s.tenants", {"one": 1})
    held.rpush("s.tenant.one", "5 d")
    assert run(held, COUNT_PARKED, ["q", "r", "none"]) == 4
    keys = ["unacked", "index", "leases", "q", "r", "none"]
    assert run(held, DROP_PARKED, keys) == 3
    assert held.keys("q*") == held.keys("r.*") == held.zrange("leases", 0, -1) == []
    assert held.hkeys("unacked") == held.zrange("index", 0, -1) == ["d"]
    assert run(held, COUNT_PARKED, ["q", "r", "s"]) == 1
