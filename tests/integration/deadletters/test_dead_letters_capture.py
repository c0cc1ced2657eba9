"""What a dead letter says of the job that failed."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from celery import Celery

import tasks.ai  # noqa: F401 - every app of this process knows it then
from tests.integration.deadletters.failed_jobs import KEY, SECRET, context
from worker import attempts
from worker.attempts import Attempt
from worker.deadletters import Message, capture
from worker.errors import (
    DeadlineExceeded,
    InvalidArguments,
    OutcomeUnknown,
    Poisoned,
    RequestRejected,
    RetriesExhausted,
)
from worker.jobs.history import History


# What a job failed of, the kind of its letter, and whether it may have been carried out.
@pytest.mark.parametrize(
    ("exc", "kind", "in_doubt", "reason"),
    [
        (InvalidArguments("to: is required"), "failed", False, "InvalidArguments: to: is required"),
        (RequestRejected("bad_request: no"), "failed", False, "RequestRejected: bad_request: no"),
        (RetriesExhausted("gave up"), "failed", False, "RetriesExhausted: gave up"),
        (DeadlineExceeded("too late"), "expired", False, "DeadlineExceeded: too late"),
        (OutcomeUnknown("who knows"), "unknown", True, "OutcomeUnknown: who knows"),
        (Poisoned("5 workers died"), "poison", True, "Poisoned: 5 workers died"),
        (
            TimeLimitExceeded(300),
            "timeout",
            True,
            "TimeLimitExceeded: it ran longer than its time limit",
        ),
        (
            SoftTimeLimitExceeded(270),
            "timeout",
            True,
            "SoftTimeLimitExceeded: it ran longer than its time limit",
        ),
        (ValueError(SECRET), "failed", True, "ValueError"),  # its words may quote anything
        (
            RequestRejected(f"odd\n{KEY}\x07"),
            "failed",
            False,
            "RequestRejected: odd gsk_canary...",
        ),  # a key, a bell
        (RequestRejected("x" * 9_000), "failed", False, "RequestRejected: " + "x" * 482 + "…"),
        (
            RequestRejected("half a \ud83d character"),
            "failed",
            False,
            "RequestRejected: half a ? character",
        ),
    ],
)
def test_a_letter_says_how_a_job_ended_in_one_sentence(
    exc: Exception, kind: str, in_doubt: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts.begin()
    app = Celery(set_as_current=False)
    monkeypatch.setattr("worker.jobs.task_service.current_app", app)
    letter, message = capture.capture_job(context(), "tasks.ai.complete", exc)
    assert (letter.kind, letter.in_doubt, letter.reason) == (kind, in_doubt, reason)
    assert (letter.id, letter.queue, letter.service, letter.worker) == (
        "job-1",
        "ai",
        "groq",
        "w1@test",
    )
    assert message == Message([], {"prompt": SECRET}, {})
    assert SECRET not in repr((letter, message))


def test_an_unexpected_error_says_where_it_was_raised() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        json.loads(str(1 // 0))
    letter, _ = capture.capture_job(context(), "tasks.email.send", caught.value)
    assert letter.reason.startswith(
        "ZeroDivisionError in deadletters/test_dead_letters_capture.py, line "
    )


def test_a_letter_holds_the_calls_of_all_turns_and_a_doubt_outlives_them() -> None:
    doubt = Attempt(1, "re_abc123...", "read_timeout", in_doubt=True)
    history = History(since_ms=5, deferrals=2, attempts=30, trail=(doubt,))
    attempts.begin()
    for number in range(25):
        attempts.note("re_abc123...", f"code_{number}")
    letter, _ = capture.capture_job(
        context(headers=json.loads(json.dumps(history.headers()))),
        "tasks.email.send",
        RetriesExhausted("gave up"),
    )
    attempts.begin()
    assert len(letter.attempts) == 20
    assert letter.attempts[0]["code"] == "read_timeout"
    assert [call["code"] for call in letter.attempts[1:]] == [
        f"code_{number}" for number in range(6, 25)
    ]
    assert (letter.calls, letter.deferrals, letter.since_ms, letter.doubt_ms) == (50, 2, 5, 5)
    later = [
        Attempt(number, "re_abc123...", "read_timeout", in_doubt=True) for number in range(2, 40)
    ]
    assert [attempt.at_ms for attempt in attempts.latest((doubt, *later))] == [1, *range(21, 40)]


def test_a_replayed_job_does_not_forget_that_it_may_have_been_carried_out() -> None:
    letter, message = capture.capture_job(
        context(headers={"keywheel_doubt_ms": 77, "mine": 1}),
        "tasks.email.send",
        DeadlineExceeded("x"),
    )
    assert letter.doubt_ms == 77
    assert message is not None
    assert message.options == {"headers": {"mine": 1}}


# What came before, and since when the job may have been carried out.
@pytest.mark.parametrize(
    ("changes", "doubt_ms"),
    [
        ({"headers": {"keywheel": {"since_ms": 5}}}, 5),
        ({"headers": {"keywheel": {"since_ms": 5}, "deaths": 1}}, 5),
        (
            {"headers": {"deaths": 1}},
            1,
        ),  # a worker died with the first turn, and nobody knows when that was
        ({"delivery_info": {"routing_key": "email", "redelivered": True}}, 1),
    ],
)
def test_a_doubt_is_as_old_as_the_first_turn_may_be(changes: dict[str, Any], doubt_ms: int) -> None:
    assert (
        capture.capture_job(context(**changes), "tasks.email.send", OutcomeUnknown("who knows"))[
            0
        ].doubt_ms
        == doubt_ms
    )


# What a stranger may write into the headers, and what comes of it.
@pytest.mark.parametrize(
    "changes",
    [
        {"id": None},
        {"id": ["x"]},
        {"id": "two words"},
        {"headers": {"keywheel": 7, "keywheel_doubt_ms": "x", "deaths": []}},
        {"timelimit": 7},
        {"retries": "x"},
        {"delivery_info": None},
        {"args": None, "kwargs": None},
    ],
)
def test_whatever_the_headers_hold_there_is_a_letter(changes: dict[str, Any]) -> None:
    letter, _ = capture.capture_job(context(**changes), "tasks.ai.complete", RequestRejected("no"))
    assert letter.id == "job-1" or letter.id.startswith("no-id-")
    assert json.loads(letter.head().partition("\n")[2])["kind"] == "failed"


def test_a_message_that_is_no_job_is_kept_as_it_came_up_to_a_bound() -> None:
    for body, raw in (
        (b"{" + b"x" * 100_000, "{" + "x" * 65_535),
        (b"\xff\xfe", "base64://4="),
        (memoryview(b"plain"), "plain"),
        ("text", "text"),
        (None, "None"),
    ):
        told = SimpleNamespace(
            headers=None, body=body, delivery_info={"routing_key": "ai"}, payload=None
        )
        letter, message = capture.capture_message(told, reason="no job", runnable=True)
        assert (letter.queue, letter.kind, letter.note) == ("ai", "poison", capture.UNRUNNABLE)
        assert message is not None
        assert message.raw == raw
