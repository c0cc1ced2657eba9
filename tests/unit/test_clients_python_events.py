"""The records that the Python client reads: streams, results, quotes; and its addresses."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from keywheel_client.connection import Addresses, Names
from keywheel_client.errors import JobCancelled, JobFailed, ResultTimeout
from keywheel_client.events import StreamEvent, event_of, events_of_result, rows_of
from keywheel_client.quotes import Quote
from keywheel_client.status import Status

AT, LATER = datetime(2026, 1, 31, 12, tzinfo=UTC), datetime(2026, 1, 31, 13, tzinfo=UTC)
CALL = {"index": 0, "id": "c1"}


# A record in Redis, and its event.
@pytest.mark.parametrize(
    ("fields", "event"),
    [
        ({"type": "start", "attempt": "2"}, StreamEvent("start", "5-1", 2)),
        ({"type": "restart"}, StreamEvent("restart", "5-1", 0)),
        (
            {"type": "delta", "text": "a", "reasoning": "b", "tool_calls": json.dumps([CALL])},
            StreamEvent("delta", "5-1", text="a", reasoning="b", tool_calls=[CALL]),
        ),
        (
            {
                "type": "wait", "reason": "none is free", "code": "rpm", "seconds": "1.000",
                "next_try": AT.isoformat(), "expected_end": LATER.isoformat(),
            },
            StreamEvent(
                "wait", "5-1", reason="none is free", code="rpm", next_try=AT, expected_end=LATER
            ),
        ),
        (
            {
                "type": "end", "status": "done", "finish_reason": "stop", "model": "m",
                "usage": '{"total_tokens": 7}',
            },
            StreamEvent("end", "5-1", finish_reason="stop", model="m", usage={"total_tokens": 7}),
        ),
    ],
)  # fmt: skip
def test_each_field_of_a_record_is_in_its_event(fields: dict[str, str], event: StreamEvent) -> None:
    assert event_of("job-1", ("5-1", fields)) == event


@pytest.mark.parametrize(
    ("error", "kind"), [("TaskRevokedError", JobCancelled), ("RequestRejected", JobFailed)]
)
def test_a_record_of_a_failure_raises_the_same_error_as_the_result(
    error: str, kind: type[JobFailed]
) -> None:
    fields = {"type": "end", "status": "failed", "error": error, "reason": "no"}
    with pytest.raises(JobFailed) as caught:
        event_of("job-1", ("5-1", fields))
    assert type(caught.value) is kind
    assert (caught.value.job, str(caught.value)) == ("job-1", f"{error}: no")


def test_both_forms_of_an_answer_have_the_same_rows() -> None:
    rows = [("1-1", {"type": "start"}), ("1-2", {"type": "delta"})]
    assert rows_of([["kw:stream:job-1", rows]]) == rows
    assert rows_of({"kw:stream:job-1": [rows]}) == rows
    assert rows_of(None) == rows_of({}) == rows_of([]) == []


def test_the_events_of_a_stream_that_is_gone_are_made_of_the_result() -> None:
    result: dict[str, Any] = {
        "attempts": 3, "text": "a", "reasoning": "b", "tool_calls": [CALL],
        "finish_reason": "stop", "model": "m", "usage": {"total_tokens": 7},
    }  # fmt: skip
    assert list(events_of_result("job-1", Status("done", result=result))) == [
        StreamEvent("restart", attempt=3),
        StreamEvent("delta", attempt=3, text="a", reasoning="b", tool_calls=[CALL]),
        StreamEvent("end", attempt=3, finish_reason="stop", model="m", usage={"total_tokens": 7}),
    ]
    assert list(events_of_result("job-1", Status("done", result={}))) == [
        StreamEvent("restart"),
        StreamEvent("delta"),
        StreamEvent("end"),
    ]
    for state, kind in (("failed", JobFailed), ("cancelled", JobCancelled)):
        ended: Any = Status(state, error="E", reason="no")  # type: ignore[arg-type]
        with pytest.raises(JobFailed) as caught:
            list(events_of_result("job-1", ended))
        assert type(caught.value) is kind


def test_a_quote_has_instants_if_they_are_known() -> None:
    record = {
        "service": "groq", "model": "m", "jobs": 1, "tokens": 2, "waiting": 3,
        "expected_start": AT.isoformat(), "start_by": LATER.isoformat(), "end_by": None,
        "limited_by": "rpm", "learned_from": 4, "later": "a field of another version",
    }  # fmt: skip
    assert Quote.of(record) == Quote("groq", "m", 1, 2, 3, AT, LATER, None, "rpm", 4)


def test_each_address_that_is_not_given_follows_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    local = "redis://127.0.0.1:6379/0"
    assert Addresses.of(None, None, None) == Addresses(local, local, local)
    monkeypatch.setenv("REDIS_URL", "redis://env/1")
    assert Addresses.of(None, "redis://r/2", None) == Addresses(
        "redis://env/1", "redis://r/2", "redis://env/1"
    )
    assert Addresses.of("redis+socket:///s", None, "redis://p/3") == Addresses(
        "unix:///s", "unix:///s", "redis://p/3"
    )
    names = Names("ours")
    assert [names.cancel_channel, names.cancel("j"), names.stream("j"), names.result("j")] == [
        "ours:cancelled",
        "ours:cancelled:j",
        "ours:stream:j",
        "celery-task-meta-j",
    ]


# The fields of a status, and its printed form.
@pytest.mark.parametrize(
    ("status", "text", "ended"),
    [
        (Status("waiting"), "waiting", False),
        (Status("waiting", place=3), "waiting at place 3", False),
        (Status("running"), "running", False),
        (Status("deferred", reason="r", code="rpm"), "deferred", False),
        (
            Status("deferred", code="rpm", next_try=AT),
            "deferred until 2026-01-31T12:00:00+00:00 (rpm)",
            False,
        ),
        (Status("done", result=1), "done", True),
        (Status("failed", error="E", reason="no"), "failed (E: no)", True),
        (Status("cancelled"), "cancelled", True),
    ],
)
def test_a_status_is_printed_in_a_few_words(status: Status, text: str, *, ended: bool) -> None:
    assert (str(status), status.is_ended) == (text, ended)
    placed = status.with_place({"place": 2, "expected_start": AT.isoformat(), "waiting": 9})
    assert (placed.place, placed.expected_start, placed.state) == (2, AT, status.state)


def test_a_wait_that_ends_without_a_result_names_the_state_of_the_job() -> None:
    ended = ResultTimeout("job-1", Status("running"), 1.5)
    assert str(ended) == "job-1 has not ended within 1.5 s: it is running"
    assert (ended.job, ended.status, ended.timeout_s) == ("job-1", Status("running"), 1.5)
