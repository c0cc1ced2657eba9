"""How a job is, read from its record in the result store."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, Literal

from keywheel_client.errors import UnreadableRecord

State = Literal["waiting", "running", "deferred", "done", "failed", "cancelled"]

PLACE_TIMEOUT_S: Final = 30.0
"""How long to wait for the worker that is asked for a job's place, in seconds."""
_CANCELLED: Final = "TaskRevokedError"


@dataclass(frozen=True, slots=True)
class Status:
    """How a job is.

    Attributes:
        state: `waiting` (in its queue, or no job has this id), `running`, `deferred` (it comes back
            by itself), `done`, `failed` or `cancelled`.
        result: What the job returned, if it is done.
        error: The name of the error, if it failed or was cancelled.
        reason: Why it failed, or why it is deferred, in a sentence.
        waits_for: What a deferred job waits for: a `key`, or another try after a `failure`.
        code: Why it is deferred, as a code (`rpm`, `daily_quota`, …): docs/results.md lists
            them.
        next_try: When a deferred job is tried again.
        expected_end: When its wait is expected to end; None: not known.
        place: The place in its queue of a job that waits, 1 for the next one; only where it was
            asked for.
        expected_start: When the keys are expected to allow its first call; None: not known.
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
        """Whether the job has ended, in whichever way."""
        return self.state in {"done", "failed", "cancelled"}

    def __str__(self) -> str:
        if self.place is not None:
            return f"{self.state} at place {self.place}"
        if self.state == "deferred" and self.next_try is not None:
            return f"deferred until {self.next_try.isoformat()} ({self.code})"
        return f"{self.state} ({self.error}: {self.reason})" if self.error else self.state

    def with_place(self, answer: Mapping[str, Any]) -> "Status":
        """Add what a worker has said of the job's place."""
        start = instant_of(answer["expected_start"])
        return replace(self, place=answer["place"], expected_start=start)


def status_of(stored: str | None) -> Status:
    """Read a job's record; None: it has none yet.

    Raises:
        UnreadableRecord: It is none of Celery's in JSON.
    """
    try:
        return _status_of(json.loads(stored) if stored else {"status": "PENDING"})
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
        raise UnreadableRecord(
            "the job's record in the result store is none of Celery's in JSON: another program, or "
            "a worker with another result_serializer, wrote it"
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
