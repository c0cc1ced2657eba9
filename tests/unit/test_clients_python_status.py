"""The status that the Python client reads from a record of the result store."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from keywheel_client import UnreadableRecord
from keywheel_client.status import Status, status_of


@pytest.mark.parametrize(
    "stored",
    ["no JSON", "5", "[]", "{}", '{"status": null, "result"', '"SUCCESS"', "[" * 100_000,
     '{"status": "RETRY", "waits": {"next_try": "soon"}}'],
)  # fmt: skip
def test_a_record_that_another_program_wrote_is_an_error_with_a_sentence(stored: str) -> None:
    with pytest.raises(UnreadableRecord, match="is not a JSON record of Celery: another program"):
        status_of(stored)


@pytest.mark.parametrize(
    ("record", "state", "text"),
    [
        (None, "waiting", "waiting"),
        ({"status": "PENDING"}, "waiting", "waiting"),
        ({"status": "STARTED", "result": None}, "running", "running"),
        ({"status": "SUCCESS", "result": {"text": "x"}}, "done", "done"),
        (
            {"status": "FAILURE", "result": {"exc_type": "RequestRejected", "exc_message": ["no"]}},
            "failed",
            "failed (RequestRejected: no)",
        ),
        (
            {"status": "REVOKED", "result": {"exc_type": "TaskRevokedError", "exc_message": "x"}},
            "cancelled",
            "cancelled (TaskRevokedError: x)",
        ),
        (
            {"status": "REVOKED", "result": {"exc_type": "DeadlineExceeded", "exc_message": "x"}},
            "failed",
            "failed (DeadlineExceeded: x)",
        ),
        (
            {
                "status": "RETRY",
                "result": {"exc_type": "Deferred", "exc_message": ["no key is free"]},
                "waits": {
                    "kind": "key",
                    "code": "rpm",
                    "next_try": "2026-01-02T03:04:05.000+00:00",
                    "expected_end": None,
                },
            },
            "deferred",
            "deferred until 2026-01-02T03:04:05+00:00 (rpm)",
        ),
        ({"status": "RETRY", "result": None}, "deferred", "deferred"),
    ],
)
def test_a_record_of_the_result_store_is_a_status(record: Any, state: str, text: str) -> None:
    status = status_of(None if record is None else json.dumps(record))
    assert status.state == state
    assert str(status) == text
    assert status.is_ended == (state in {"done", "failed", "cancelled"})


def test_a_status_holds_each_field_of_its_record() -> None:
    waits = {
        "kind": "key",
        "code": "rpm",
        "next_try": "2026-11-30T00:00:00+00:00",
        "expected_end": "2026-11-30T01:00:00+00:00",
    }
    failure = {"exc_type": "Name", "exc_message": ["a", "reason"]}
    statuses = {
        state: status_of(json.dumps({"status": state, "result": failure, "waits": waits}))
        for state in ("RETRY", "FAILURE", "REVOKED", "SUCCESS")
    }
    assert statuses["RETRY"] == Status(
        "deferred",
        reason="a reason",
        waits_for="key",
        code="rpm",
        next_try=datetime(2026, 11, 30, tzinfo=UTC),
        expected_end=datetime(2026, 11, 30, 1, tzinfo=UTC),
    )
    assert statuses["FAILURE"] == Status("failed", error="Name", reason="a reason")
    assert statuses["REVOKED"] == Status("failed", error="Name", reason="a reason")
    assert statuses["SUCCESS"] == Status("done", result=failure)
    placed = Status("waiting").with_place({"place": 3, "expected_start": waits["next_try"]})
    assert placed == Status("waiting", place=3, expected_start=datetime(2026, 11, 30, tzinfo=UTC))
    assert Status("waiting").with_place({"place": None, "expected_start": None}) == Status(
        "waiting"
    )
    bare = status_of(json.dumps({"status": "RETRY", "result": {"exc_message": "x"}}))
    assert bare == Status("deferred", reason="x")
