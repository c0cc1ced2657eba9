"""The dashboard's view of one job: its result, its events, its message."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from worker.dashboard import job_view
from worker.dashboard.job_view import Waits


# The result store and the events, whether the job is deferred; its state, and where it is.
@pytest.mark.parametrize(
    ("stored", "event_state", "deferred", "state", "where"),
    [
        ("PENDING", None, False, "PENDING", "queue"),
        ("PENDING", "RECEIVED", False, "RECEIVED", "worker"),
        ("PENDING", "STARTED", False, "STARTED", "running"),
        ("STARTED", None, False, "STARTED", "running"),
        ("SUCCESS", "STARTED", False, "SUCCESS", "ended"),
        ("REVOKED", None, True, "REVOKED", "ended"),
        ("RETRY", None, False, "RETRY", "deferred"),
        ("RETRY", "RECEIVED", False, "RECEIVED", "worker"),
        ("RETRY", "RECEIVED", True, "RETRY", "deferred"),
        ("PENDING", None, True, "PENDING", "deferred"),
    ],
)
def test_a_job_is_where_its_result_and_the_events_say(
    *, stored: str, event_state: str | None, deferred: bool, state: str, where: str
) -> None:
    seen = SimpleNamespace(state=event_state) if event_state else None
    assert job_view._state_of({"status": stored}, seen, deferred=deferred) == state
    assert job_view._where(state, deferred=deferred) == where


@pytest.mark.parametrize(
    ("stored", "due_ms", "waits"),
    [
        (None, None, None),
        ("odd", None, None),
        (None, 5, Waits("", "", 5, None)),
        (
            {"kind": "key", "code": "rpm", "next_try": "1970-01-01T00:00:01+00:00"},
            None,
            Waits("key", "rpm", 1_000, None),
        ),
        (
            {"kind": "key", "next_try": "odd", "expected_end": "1970-01-01T00:00:02+00:00"},
            0,
            Waits("key", "", 0, 2_000),
        ),
    ],
)
def test_a_wait_ends_when_the_broker_says_so_if_it_has_the_job(
    stored: Any, due_ms: int | None, waits: Waits | None
) -> None:
    assert job_view._waits(stored, due_ms) == waits


@pytest.mark.parametrize(
    ("result", "key", "attempts"),
    [
        ({"key": "gsk_abc123...", "attempts": 3}, "gsk_abc123...", 3),
        ({"key": "gsk_of_the_users_own", "attempts": -1}, "", None),
        ({"key": 7, "attempts": True}, "", None),
        ({"attempts": 0}, "", 0),
        ("text", "", None),
        (None, "", None),
    ],
)
def test_of_a_result_only_the_label_and_the_calls_are_shown(
    result: Any, key: str, attempts: int | None
) -> None:
    assert job_view._key_in(result) == key
    assert job_view._attempts_in(result) == attempts


def test_the_events_of_a_job_are_listed_in_their_order() -> None:
    seen = SimpleNamespace(received=2.0004, started=3.0, sent=1.0, succeeded=None)
    assert list(job_view._events(seen)) == [
        {"at_ms": 1_000, "event": "sent"},
        {"at_ms": 2_000, "event": "received"},
        {"at_ms": 3_000, "event": "started"},
    ]
    assert list(job_view._events(None)) == []


@pytest.mark.parametrize("text", [None, b"", "{", "[1]", '{"headers": []}', 7])
def test_a_message_that_cannot_be_read_has_no_headers(text: Any) -> None:
    assert job_view._headers_in(text) == {}


class _Broker:
    """A broker that has one deferred job, or cannot be read."""

    def __init__(self, driver: str, answers: Any = None) -> None:
        self.transport = SimpleNamespace(driver_type=driver)
        self.asked: list[str] = []
        self._answers = answers

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None: ...

    def channel(self) -> Any:
        return SimpleNamespace(client=SimpleNamespace(pipeline=lambda **_: self))

    def zscore(self, name: str, _: str) -> None:
        self.asked.append(name)

    def hget(self, name: str, _: str) -> None:
        self.asked.append(name)

    def execute(self) -> list[Any]:
        count = len(self.asked)
        replies: list[Any] = [None] * count
        for index, value in (self._answers or {}).items():
            replies[index] = value
        return replies


def app_with(broker: _Broker) -> Any:
    return SimpleNamespace(connection_for_read=lambda: broker)


@pytest.mark.parametrize(
    ("due_us", "due_ms"), [(5_000_600, 5_001), (-9.0, 0), (0, 0), (1_499, 1), (2_000_000, 2_000)]
)
def test_a_deferred_job_is_found_with_its_instant_and_headers(due_us: float, due_ms: int) -> None:
    message = json.dumps({"headers": {"task": "t"}})
    broker = _Broker("redis", {1: due_us, -1: message})
    assert job_view._deferred(app_with(broker), "j") == (due_ms, {"task": "t"})


@pytest.mark.parametrize("answers", [None, {1: 5.0}, {-1: "{}"}])
def test_a_job_that_is_not_deferred_has_neither_instant_nor_headers(answers: Any) -> None:
    assert job_view._deferred(app_with(_Broker("redis", answers)), "j") == (None, {})
    assert job_view._deferred(app_with(_Broker("amqp", answers)), "j") == (None, {})


# The task in the events of a job, the task in its message, and the task that is shown.
@pytest.mark.parametrize(
    ("seen", "named", "task"),
    [
        (SimpleNamespace(name="seen", state="RECEIVED"), "named", "seen"),
        (SimpleNamespace(name=None, state="RECEIVED"), "named", "named"),
        (None, "named", "named"),
        (None, None, ""),
    ],
)
def test_the_task_of_a_job_is_the_one_of_its_events_else_the_one_of_its_message(
    monkeypatch: pytest.MonkeyPatch, seen: Any, named: str | None, task: str
) -> None:
    waits = {"kind": "key", "code": "rpm"}
    meta = {"status": "RETRY", "result": ValueError("a prompt"), "waits": waits}
    headers = {"task": named, "keywheel": {"since_ms": 5, "trail": [CALL]}}
    monkeypatch.setattr(job_view, "meta_of", lambda *_: meta)
    monkeypatch.setattr(job_view, "_deferred", lambda *_: (7, headers))
    app: Any = "the app"
    found = job_view.look_up(app, "j", seen)
    assert (found.task, found.where, found.worker) == (task, "deferred", "")
    assert found.waits == Waits("key", "rpm", 7, None)
    assert [call["key"] for call in found.calls] == [CALL["key"]]
    assert (found.error, found.key, found.attempts) == ("", "", None), "the job has not ended"


CALL = {"at_ms": 5, "key": "gsk_1...", "code": "ok"}
