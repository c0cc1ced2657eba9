"""The taking script: which messages it takes, in which order, and which it leaves."""

import json
import random
from typing import Any

import pytest

from tests.integration.aio.taking_server import (
    HOUR_US,
    LEADER,
    LEFT_ALONE,
    SUFFIX,
    Server,
    text_of,
)
from worker.aio.transport.messages import NOTHING_DELAYED


def should_take(
    lists: list[list[str]], full: dict[str, list[str]], *, limit: int, in_turn: bool
) -> list[tuple[str, str]]:
    """Take from lists that begin with their next message, in the simplest way."""
    taken: list[tuple[str, str]] = []
    order = [*range(len(lists[0]))]  # the turns continue from one priority to the next
    for row in lists:
        while len(taken) < limit:
            queue = next((queue for queue in order if full[row[queue]]), None)
            if queue is None:
                break
            taken.append((row[queue], full[row[queue]].pop(0)))
            if in_turn:
                order.remove(queue)
                order.append(queue)
    return taken


@pytest.mark.parametrize("in_turn", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_messages_are_taken_by_priority_and_the_queues_in_turn(
    queue_server: Server, seed: int, *, in_turn: bool
) -> None:
    chance = random.Random(seed)  # noqa: S311 - the same each time
    queues = [f"q{number}" for number in range(chance.randint(1, 4))]
    lists = [[f"{queue}:{row}" for queue in queues] for row in range(chance.randint(1, 3))]
    full: dict[str, list[str]] = {}
    for name in [name for row in lists for name in row]:
        full[name] = [f"{name}-{at}" for at in range(chance.choice([0, 1, 3, 16, 17, 40]))]
        if full[name]:
            queue_server.push(name, *full[name])
    held: list[str] = []
    for limit in (1, 5, 16, 37, 200):
        should = should_take(lists, full, limit=limit, in_turn=in_turn)
        assert queue_server.take(lists, limit=limit, in_turn=in_turn) == should
        assert queue_server.taken_tags == [tag + SUFFIX for _, tag in should]
        held += queue_server.taken_tags
        assert {name: queue_server.tags(name) for name in full} == full
        assert queue_server.due_in_us == NOTHING_DELAYED
    assert sorted(tag.decode() for tag in queue_server.client.hkeys("unacked")) == sorted(held)


@pytest.mark.parametrize("lease_s", [60, 0.5, 0])
def test_a_message_is_taken_together_with_its_lease(queue_server: Server, lease_s: float) -> None:
    before_s = queue_server.now_us() / 1e6
    queue_server.push("a", "plain", "again@5f", "own@name", "@5f")
    assert [name for name, _ in queue_server.take([["a"]], lease_s=lease_s)] == ["a"] * 4
    tags = [f"{tag}{SUFFIX}" for tag in ("plain", "again", "own@name", "@5f")]
    assert queue_server.taken_tags == tags
    entries = {
        tag.decode(): json.loads(its) for tag, its in queue_server.client.hgetall("unacked").items()
    }
    assert entries == {
        tag: [json.loads(text_of(own)), "e", "k"]
        for tag, own in zip(tags, ("plain", "again@5f", "own@name", "@5f"), strict=True)
    }
    assert queue_server.client.zmscore("index", tags) == [1700.5] * 4
    ends_s = {queue_server.client.zscore("leases", tag) for tag in tags}
    if lease_s:
        [end_s] = ends_s
        assert before_s - 0.001 <= end_s - lease_s <= queue_server.now_us() / 1e6 + 0.001
    else:
        assert ends_s == {None}


@pytest.mark.parametrize(
    "odd",
    [
        "{",
        "[]",
        "5",
        '{"properties": {}}',
        '{"properties": {"delivery_tag": 5, "delivery_info": {}}}',
        '{"properties": {"delivery_tag": "t"}}',
        '{"properties": {"delivery_tag": "t", "delivery_info": 5}}',
    ],
)
def test_an_entry_that_is_not_a_message_is_set_aside_and_counts_as_taken(
    queue_server: Server, odd: str
) -> None:
    for item in (text_of("1"), odd, text_of("2"), text_of("3")):
        queue_server.client.lpush("a", item)
    assert queue_server.take([["a"]], limit=3) == [("a", "1"), ("a", "2")]
    assert (queue_server.set_aside, queue_server.texts("unreadable")) == (1, [odd])
    assert queue_server.tags("a") == ["3"]
    assert queue_server.take([["a"]]) == [("a", "3")]
    assert queue_server.set_aside == 0


@pytest.mark.parametrize(
    "half", [r"\ud800", r"\uDBFF", r"\udc00", r"\uDfFf", r"\ud83d\ude00", r"\u00e9 \udabc x"]
)
def test_a_lone_surrogate_does_not_set_a_message_aside_however_it_is_written(
    queue_server: Server, half: str
) -> None:
    text = text_of("1").replace(": ", ":").replace('"body":"1"', f'"body":"{half}"')
    queue_server.client.lpush("a", text)
    assert len(queue_server.take([["a"]])) == 1
    [entry] = queue_server.client.hvals("unacked")
    assert entry.decode() == f'[{text}, "e", "k"]'


@pytest.mark.parametrize("before", [0, 2])
def test_due_messages_come_before_their_list_and_on_request_before_another_one(
    queue_server: Server, before: int
) -> None:
    lists = [["late", "a"], ["late:1", "a:1"]]
    for name in ("late", "a", "late:1", "a:1"):
        queue_server.push(name, f"{name} 1", f"{name} 2")
    now_us = queue_server.now_us()
    queue_server.delay("late", 0, now_us - 500, "due 1", "due 2", "due 3")
    queue_server.delay("late", 0, now_us + HOUR_US, "far")
    queue_server.delay("late", 1, now_us - 900, "less urgent")
    taken = [body for _, body in queue_server.take(lists, delayed=(("late", 1, before),))]
    alone = ["due 1", "a 1", "due 2", "a 2", "due 3", "late 1", "late 2"]
    both = ["due 1", "due 2", "due 3", "a 1", "late 1", "a 2", "late 2"]
    assert taken[:7] == (both if before else alone)
    assert sorted(taken[7:]) == ["a:1 1", "a:1 2", "late:1 1", "late:1 2", "less urgent"]
    assert [body for body in taken[7:] if body[0] == "l"] == ["less urgent", "late:1 1", "late:1 2"]
    assert (
        queue_server.client.zrange("late.0.due", 0, -1)
        == queue_server.client.hkeys("late.texts")
        == [b"far"]
    )
    assert not queue_server.client.exists("late.1.due")
    assert int(queue_server.client.get("late.next")) == now_us + HOUR_US
    assert 0 < queue_server.due_in_us <= HOUR_US


def test_a_due_message_is_that_of_its_own_queue_and_no_more_are_taken_than_asked_for(
    queue_server: Server,
) -> None:
    queue_server.push("a", "a 1")
    queue_server.delay("late", 0, queue_server.now_us() - 500, "due 1", "due 2", "due 3")
    queues: dict[str, Any] = {"lists": [["a", "late"]], "delayed": (("late", 2, 1),)}
    assert queue_server.take(**queues, limit=2) == [("late", "due 1"), ("late", "due 2")]
    assert queue_server.due_in_us == NOTHING_DELAYED
    assert queue_server.client.zrange("late.0.due", 0, -1) == [b"due 3"]
    assert queue_server.client.hkeys("late.texts") == [b"due 3"]
    assert queue_server.take(**queues, limit=9) == [("late", "due 3"), ("a", "a 1")]
    assert not queue_server.client.exists("late.next", "late.texts", "late.0.due")


def test_due_messages_that_were_not_taken_stay(queue_server: Server) -> None:
    queue_server.push("a", "a 1")
    queue_server.delay("late", 0, queue_server.now_us() - 500, "due 1", "due 2", "due 3")
    queues: dict[str, Any] = {"lists": [["late", "a"]], "delayed": (("late", 1, 0),)}
    assert queue_server.take(**queues, limit=2) == [("late", "due 1"), ("a", "a 1")]
    assert queue_server.client.zrange("late.0.due", 0, -1) == [b"due 2", b"due 3"]
    assert queue_server.take(**queues) == [("late", "due 2"), ("late", "due 3")]


def test_a_lost_text_is_passed_over_and_an_odd_one_set_aside(queue_server: Server) -> None:
    queue_server.delay("late", 0, queue_server.now_us() - 900, "lost", "odd", "good")
    queue_server.client.hdel("late.texts", "lost")
    queue_server.client.hset("late.texts", "odd", "{")
    assert queue_server.take([["late"]], delayed=(("late", 1, 0),)) == [("late", "good")]
    assert (queue_server.set_aside, queue_server.texts("unreadable")) == (1, ["{"])
    assert not queue_server.client.exists("late.next", "late.texts", "late.0.due")


# The leader of the queue, the time until the next message is due, and when this channel polls
# again.
@pytest.mark.parametrize(
    ("leader", "due_us", "looks"),
    [
        (None, HOUR_US, "then"),
        (LEADER, HOUR_US, "then"),
        ("@99999999", HOUR_US, -2),
        (None, None, -1),
        (LEADER, None, -1),
        ("@99999999", None, -1),
    ],
)
def test_one_channel_looks_again_when_the_next_message_is_due(
    queue_server: Server, leader: str | None, due_us: int | None, looks: Any
) -> None:
    if leader is not None:
        queue_server.client.set("late.leader", leader, px=40_000)
    if due_us is not None:
        queue_server.delay("late", 0, queue_server.now_us() + due_us, "later")
    assert queue_server.take([["a", "late"]], delayed=(("late", 2, 0),)) == []
    if looks == "then":
        assert due_us is not None
        assert due_us - 20_000_000 < queue_server.due_in_us <= due_us
    else:
        assert queue_server.due_in_us == looks
    leads = leader in {None, LEADER}
    assert queue_server.client.get("late.leader") == (LEADER if leads else leader or "").encode()
    assert (queue_server.client.pttl("late.leader") > 40_000) is leads


def test_of_several_delayed_queues_the_first_that_is_due_is_waited_for(
    queue_server: Server,
) -> None:
    now_us = queue_server.now_us()
    queue_server.delay("x", 0, now_us + 3 * HOUR_US, "third")
    queue_server.delay("y", 0, now_us + HOUR_US, "first")
    queue_server.delay("z", 0, now_us + 2 * HOUR_US, "second")
    queues = [["x", "y", "z"]]
    delayed = (("x", 1, 0), ("y", 2, 0), ("z", 3, 0))
    for order in (delayed, delayed[::-1]):
        assert queue_server.take(queues, delayed=order) == []
        assert HOUR_US - 20_000_000 < queue_server.due_in_us <= HOUR_US
    queue_server.client.set("y.leader", "@99999999")
    assert queue_server.take(queues, delayed=delayed) == []
    assert 2 * HOUR_US - 20_000_000 < queue_server.due_in_us <= 2 * HOUR_US
    for name in "xz":
        queue_server.client.set(f"{name}.leader", "@99999999")
    queue_server.take(queues, delayed=delayed)
    assert queue_server.due_in_us == -2


def test_a_channel_that_is_full_leaves_the_lead_to_others(queue_server: Server) -> None:
    queue_server.push("a", "1", "2")
    queue_server.delay("late", 0, queue_server.now_us() + HOUR_US, "later")
    assert len(queue_server.take([["a", "late"]], limit=1, delayed=(("late", 2, 0),))) == 1
    assert (queue_server.due_in_us, queue_server.client.exists("late.leader")) == (-1, 0)


def test_due_messages_of_a_list_that_is_left_alone_stay_and_hide_no_others(
    queue_server: Server,
) -> None:
    now_us = queue_server.now_us()
    queue_server.delay("late", 1, now_us - 500, "closed")
    queue_server.delay("late", 2, now_us - 500, "closed too")
    lists = [["late"], [LEFT_ALONE], [LEFT_ALONE]]
    assert queue_server.take(lists, delayed=(("late", 1, 0),)) == []
    assert queue_server.due_in_us == -2
    queue_server.delay("late", 0, now_us + HOUR_US, "open")
    assert queue_server.take(lists, delayed=(("late", 1, 0),)) == []
    assert HOUR_US - 20_000_000 < queue_server.due_in_us <= HOUR_US
    queue_server.client.zadd("late.1.due", {"closed": now_us + HOUR_US / 2})
    assert queue_server.take(lists, delayed=(("late", 1, 0),)) == []
    assert HOUR_US - 20_000_000 < queue_server.due_in_us <= HOUR_US, (
        "the due time ignores lists that are left alone"
    )
    lists[2] = ["late:2"]
    assert queue_server.take(lists, delayed=(("late", 1, 0),)) == [("late:2", "closed too")]
