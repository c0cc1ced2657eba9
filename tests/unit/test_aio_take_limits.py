"""Which queues a channel may take from, and how the keys of queues and of delays are named."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from worker.aio.transport import delayed, delaying
from worker.aio.transport.delaying import QueueNames, commands_for
from worker.aio.transport.scripts import DELAY
from worker.aio.transport.take_limits import TakeLimits

NAMES = QueueNames(prefix="p.", sep="|", steps=(0, 3, 6, 9), delayed=frozenset({"later"}))


@pytest.mark.parametrize(("below", "allowed"), [(None, [0, 3, 6]), (3, [0]), (4, [0, 3]), (0, [])])
def test_of_a_queue_with_a_limit_only_the_more_urgent_lists_are_taken(
    below: int | None, allowed: list[int]
) -> None:
    limits = TakeLimits()
    limits.take_urgent_only("a", 1)
    limits.take_urgent_only("a", below)
    assert [step for step in (0, 3, 6) if limits.allows("a", step)] == allowed
    assert limits.allows("b", 9)
    limits.take_urgent_only("a", None)
    limits.take_urgent_only("a", None)
    assert limits.allows("a", 9)


def test_without_a_limit_everything_may_be_taken_and_nothing_is_remembered() -> None:
    limits = TakeLimits()
    limits.note_taken(9, 1000.0)
    assert limits.within(["a", "b"], 7, 1000.0) == (["a", "b"], 7)
    limits.take_at_most("a", lambda: 4)
    assert limits.within(["a"], 7, 1000.0) == (["a"], 4)


# The room, further room of queues a and b, how many were taken a moment ago; what may be taken.
@pytest.mark.parametrize(
    ("room", "more", "taken", "within"),
    [
        (7, (9, 9), 0, (["a", "b", "c"], 7)),
        (7, (3, 5), 0, (["a", "b", "c"], 3)),
        (7, (3, 5), 2, (["a", "b", "c"], 1)),
        (7, (3, 5), 3, (["b", "c"], 2)),
        (7, (0, 5), 0, (["b", "c"], 5)),
        (7, (0, -2), 0, (["c"], 7)),
        (7, (1, 1), 1, (["c"], 7)),
    ],
)
def test_messages_that_were_taken_a_moment_ago_count_against_the_limits(
    room: int, more: tuple[int, int], taken: int, within: Any
) -> None:
    limits = TakeLimits()
    limits.take_at_most("a", lambda: more[0])
    limits.take_at_most("b", lambda: more[1])
    limits.note_taken(99, 999.0)
    limits.note_taken(taken, 1000.0)
    assert limits.within(["a", "b", "c"], room, 1000.05) == within
    assert limits.within(["a", "b", "c"], room, 1000.04) == within
    if more[0] == 1:
        assert limits.within(["a"], room, 1000.06) == (["a"], 1)


def test_the_keys_of_a_delayed_queue_are_named_after_its_lists() -> None:
    named: Any = {"sep": "|", "steps": (0, 3)}
    assert delayed.lists_of("q", **named) == ("q", "q|3")
    assert delayed.due_sets_of("q", **named) == ("q.due", "q|3.due")
    assert delayed.keys_of("q", **named) == ("q.due", "q|3.due", "q.due.texts", "q.due.next")
    assert delayed.leader_of("q") == "q.due.leader"
    assert delayed.lists_of("q") == ("q", *(f"q\x06\x16{step}" for step in (3, 6, 9)))


@pytest.mark.parametrize(
    ("priority", "name"),
    [(0, "q"), (2, "q"), (3, "q|3"), ("5", "q|3"), (9, "q|9"), (99, "q|9"), (-1, "q"), (None, "q"),
     ("urgent", "q")],
)  # fmt: skip
def test_a_priority_has_the_list_of_the_step_below(priority: Any, name: str) -> None:
    assert NAMES.list_of("q", priority) == name
    every = replace(NAMES, steps=tuple(range(10)))
    if not isinstance(priority, int):
        assert every.list_of("q", priority) == ("q|5" if priority == "5" else "q")


class _Now(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        return datetime(2030, 1, 1, tzinfo=tz)


NOW = datetime(2030, 1, 1, tzinfo=UTC)


# The queue, the headers of the message, and in how many microseconds it is due; None means now.
@pytest.mark.parametrize(
    ("queue", "headers", "due_in_us", "eta_stays"),
    [
        ("later", {"id": "job", "eta": "2030-01-01T00:00:01.5"}, 1_500_000, False),
        ("later", {"eta": (NOW + timedelta(microseconds=1)).isoformat()}, 1, False),
        ("later", {"id": "job", "eta": NOW.isoformat()}, None, False),
        ("later", {"id": "job", "eta": (NOW - timedelta(hours=1)).isoformat()}, None, False),
        ("later", {"id": "job", "eta": "never"}, None, True),
        ("later", {"id": "job"}, None, True),
        ("later", None, None, True),
        ("other", {"id": "job", "eta": (NOW + timedelta(hours=1)).isoformat()}, None, True),
    ],
)  # fmt: skip
def test_a_message_with_an_instant_waits_beside_its_list_without_it(
    monkeypatch: pytest.MonkeyPatch,
    queue: str,
    headers: Any,
    due_in_us: int | None,
    *,
    eta_stays: bool,
) -> None:
    monkeypatch.setattr(delaying, "datetime", _Now)
    given = None if headers is None else dict(headers)
    message = {"headers": headers, "properties": {"priority": 3, "delivery_tag": "tag"}}
    [command] = commands_for(queue, message, names=NAMES, encode=json.dumps)
    assert headers == given  # it is sent again after a lost connection
    sent = message if eta_stays else message | {"headers": {**headers, "eta": None}}
    if due_in_us is None:
        assert command == ("LPUSH", f"p.{queue}|3", json.dumps(sent))
        return
    keys = ("p.later|3.due", "p.later.due.texts", "p.later.due.next", "p.unacked.clock")
    job = headers.get("id", "tag")
    assert command == ("EVAL", DELAY, 4, *keys, job, json.dumps(sent), due_in_us)
