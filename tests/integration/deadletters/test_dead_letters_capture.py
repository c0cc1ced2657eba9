"""The content of a dead letter about the job that failed."""

import json
from dataclasses import replace
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


# The error of a job, the kind of its dead letter, and whether the job may have been carried out.
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
        (ValueError(SECRET), "failed", True, "ValueError"),  # its message may quote anything
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


# The history, and since when the job may have been carried out.
@pytest.mark.parametrize(
    ("changes", "doubt_ms"),
    [
        ({"headers": {"keywheel": {"since_ms": 5}}}, 5),
        ({"headers": {"keywheel": {"since_ms": 5}, "deaths": 1}}, 5),
        (
            {"headers": {"deaths": 1}},
            1,
        ),  # a worker died with the first run, at an unknown time
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


# Headers that a stranger may write, and their effect.
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


def test_a_message_that_is_not_a_job_is_kept_as_it_came_up_to_a_limit() -> None:
    for body, raw in (
        (b"{" + b"x" * 100_000, "{" + "x" * 65_535),
        (b"\xff\xfe", "base64://4="),
        (memoryview(b"plain"), "plain"),
        ("text", "text"),
        (None, "None"),
    ):
        delivered = SimpleNamespace(
            headers=None, body=body, delivery_info={"routing_key": "ai"}, payload=None
        )
        letter, message = capture.capture_message(delivered, reason="no job", runnable=True)
        assert (letter.queue, letter.kind, letter.note) == ("ai", "poison", capture.UNRUNNABLE)
        assert message is not None
        assert message.raw == raw


def _delivered(body: Any, *, job: Any = "job-1", payload: Any = None, **info: Any) -> Any:
    return SimpleNamespace(
        headers={"id": job, "task": "tasks.ai.complete"},
        body=body,
        payload=payload,
        delivery_info={"routing_key": "ai.deferred"} | info,
        delivery_tag="tag-1@5",
    )


CALLBACKS = {
    "callbacks": [1], "errbacks": [2], "chain": [3], "chord": {"task": "c"}, "unknown": [4],
}  # fmt: skip
LARGE = "x" * 4_000_000


# A message that a worker of another version may run, and the message of its replay.
@pytest.mark.parametrize(
    ("delivered", "message"),
    [
        (_delivered("…", payload=([1], {"a": 2}, None)), Message([1], {"a": 2}, {})),
        (
            _delivered("…", payload=([], {}, CALLBACKS)),
            Message(options={"link": [1], "link_error": [2], "chain": [3], "chord": {"task": "c"}}),
        ),
        (_delivered("…", payload=([], {}, {"callbacks": None, "chord": {}})), Message()),
        (_delivered(LARGE, payload=([], {}, {})), Message()),  # as large as is allowed
        (_delivered(LARGE + "x", payload=([], {}, {})), None),
        (_delivered("…", job="two words", payload=([], {}, {})), None),
        (_delivered("…", payload=((), {}, {})), None),
        (_delivered("…", payload=([], [], {})), None),
        (_delivered("…", payload=([], {}, [])), None),
        (_delivered("…", payload=([], {})), None),
    ],
)
def test_a_message_that_others_may_run_is_kept_for_a_replay(
    delivered: Any, message: Message | None
) -> None:
    letter, kept = capture.capture_message(delivered, reason="unknown task", runnable=True)
    assert (letter.task, letter.queue, letter.service) == ("tasks.ai.complete", "ai", "groq")
    assert letter.reason == "unknown task"
    if message is None:
        assert letter.note == capture.UNRUNNABLE
        assert kept == Message(raw=delivered.body[:65_536])
    else:
        assert (letter.id, letter.note) == ("job-1", "")
        assert kept == message
    letter, kept = capture.capture_message(delivered, reason="no job")
    assert letter.note == capture.UNRUNNABLE
    assert kept == Message(raw=delivered.body[:65_536])


def test_a_message_without_a_good_id_is_named_after_the_stable_part_of_its_tag() -> None:
    letter, _ = capture.capture_message(_delivered("…", job=None), reason="no job")
    assert letter.id == "no-id-tag-1"


def test_everything_about_a_job_is_in_its_letter_and_its_message() -> None:
    attempts.begin()
    attempts.note("gsk_b...", "server_error")
    earlier = {"at_ms": 7, "key": "gsk_a...", "code": "rpm", "in_doubt": False}
    history = {"attempts": 3, "deferrals": 2, "since_ms": 5, "trail": [earlier]}
    job = context(
        headers={"keywheel": history, "deaths": 1, "redelivered": True, "mine": "kept"},
        delivery_info={"routing_key": "ai.deferred", "priority": 9},
        properties={"delivery_tag": "tag-1@5"},
        retries=4,
        hostname="w1@host",
        root_id="root",
        shadow="its shadow",
    )
    letter, message = capture.capture_job(job, "tasks.ai.complete", RequestRejected("no"))
    assert (letter.id, letter.task, letter.queue) == ("job-1", "tasks.ai.complete", "ai")
    assert (letter.service, letter.kind) == ("groq", "failed")
    assert (letter.since_ms, letter.faults, letter.deferrals, letter.calls) == (5, 4, 2, 4)
    assert [call["key"] for call in letter.attempts] == ["gsk_a...", "gsk_b..."]
    assert (letter.worker, letter.delivery, letter.doubt_ms) == ("w1@host", "tag-1", 0)
    assert message is not None
    assert message.options["headers"] == {"mine": "kept"}
    assert (message.options["priority"], message.options["root_id"]) == (9, "root")
    assert message.options["shadow"] == "its shadow"
    words = letter.words.split("\n")
    assert words[:3] == ["job-1", "tasks.ai.complete", "ai"]
    assert words[4:] == ["w1@host", "gsk_a... rpm", "gsk_b... server_error"]
    fields = letter.as_json()
    assert "delivery" not in fields
    assert (fields["in_doubt"], fields["replayable"], fields["calls"]) == (False, False, 4)


@pytest.mark.parametrize(("size", "note", "may"), [(0, "", False), (1, "", True), (1, "x", False)])
def test_a_job_whose_message_is_kept_whole_can_be_replayed(
    size: int, note: str, *, may: bool
) -> None:
    letter, _ = capture.capture_job(context(), "tasks.ai.complete", RequestRejected("no"))
    assert replace(letter, size=size, note=note).replayable is may
