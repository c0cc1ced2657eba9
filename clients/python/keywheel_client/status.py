"""Reads the status of a job from its record in the result store."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal

from keywheel_client.errors import UnreadableRecord

State = Literal["waiting", "running", "deferred", "done", "failed", "cancelled"]

PLACE_TIMEOUT_S: Final = 30.0
"""How long to wait for a worker's answer about a job's place, in seconds."""
_CANCELLED: Final = "TaskRevokedError"


@dataclass(frozen=True, slots=True)
class Status:
    """The status of a job.

    Attributes:
        state: `waiting` (in its queue, or no job has this id), `running`, `deferred` (a worker
            runs the job again later), `done`, `failed` or `cancelled`.
        result: The result of a job that is done.
        error: The name of the error of a job that failed or was cancelled.
        reason: Why the job failed, or why it is deferred, in a sentence.
        waits_for: Whether a deferred job waits for a `key`, or for another try after a `failure`.
        code: Why the job is deferred, as a code (`rpm`, `daily_quota`, …): docs/results.md lists
            the codes.
        next_try: When a deferred job is tried again.
        expected_end: When the wait is expected to end; None if it is not known.
        place: The place of a waiting job in its queue, 1 for the next job; only if the caller asked
            for the place.
        expected_start: When the keys are expected to allow the first call; None if it is not known.
    """

    state: State
    result: Any = None
    error: str = ""
    reason: str = ""
    waits_for: Literal["", "key", "failure"] = ""
    code: str = ""
    next_try: datetime | None = None
    expected_end: datetime | None = None
    place: int | None = None
    expected_start: datetime | None = None

    @property
    def is_ended(self) -> bool:
        """Whether the job has ended, with or without a result."""
        return self.state in {"done", "failed", "cancelled"}

    def __str__(self) -> str:
        if self.place is not None:
            return f"{self.state} at place {self.place}"
        if self.state == "deferred" and self.next_try is not None:
            return f"deferred until {self.next_try.isoformat()} ({self.code})"
        return f"{self.state} ({self.error}: {self.reason})" if self.error else self.state

    def with_place(self, answer: Mapping[str, Any]) -> "Status":
        """Add a worker's answer about the job's place."""
        start = instant_of(answer["expected_start"])
        return replace(self, place=answer["place"], expected_start=start)


def status_of(stored: str | None) -> Status:
    """Read a job's record; None if the job has no record yet.

    Raises:
        UnreadableRecord: The record is not a JSON record of Celery.
    """
    try:
        return _status_of(json.loads(stored) if stored else {"status": "PENDING"})
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
        raise UnreadableRecord(
            "the job's record in the result store is not a JSON record of Celery: another program, "
            "or a worker with another result_serializer, wrote it"
        ) from exc


def _status_of(record: Mapping[str, Any]) -> Status:
    result = record.get("result")
    failure = result if isinstance(result, dict) else {}
    name, reason = str(failure.get("exc_type", "")), _sentence(failure)
    match record["status"]:
        case "SUCCESS":
            status = Status("done", result=result)
        case "FAILURE":
            status = Status("failed", error=name, reason=reason)
        case "REVOKED":
            state: State = "cancelled" if name == _CANCELLED else "failed"
            status = Status(state, error=name, reason=reason)
        case "RETRY":
            waits: Any = record.get("waits")
            status = _deferred(reason, waits if isinstance(waits, dict) else {})
        case "STARTED":
            status = Status("running")
        case _:
            status = Status("waiting")
    return status


def _deferred(reason: str, waits: Mapping[str, Any]) -> Status:
    return Status(
        "deferred",
        reason=reason,
        waits_for=waits.get("kind") or "",
        code=str(waits.get("code") or ""),
        next_try=instant_of(waits.get("next_try")),
        expected_end=instant_of(waits.get("expected_end")),
    )


def instant_of(text: str | None) -> datetime | None:
    """Read an instant in ISO 8601."""
    return datetime.fromisoformat(text) if text else None


def _sentence(failure: Mapping[str, Any]) -> str:
    message = failure.get("exc_message")
    return " ".join(map(str, message)) if isinstance(message, list) else str(message or "")
