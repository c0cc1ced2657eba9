"""Reads the records of a job's stream: docs/results.md, "Streaming"."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from keywheel_client.errors import JobCancelled, JobFailed
from keywheel_client.outcome import outcome_of
from keywheel_client.results import Usage
from keywheel_client.status import Status, instant_of

_CANCELLED = "TaskRevokedError"

Row = tuple[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One piece of an answer, or a change of its state.

    Attributes:
        type: `start`, `delta` (a piece), `wait` (the job is deferred), `restart` (drop the pieces
            so far: the answer begins again) or `end` (the answer is complete).
        id: Pass it as `after` to continue after this event. Empty if the event was made from the
            job's result.
        attempt: How many calls were made for the job so far.
        text: A delta's text.
        reasoning: A delta's reasoning.
        tool_calls: A delta's tool calls; merge them by their `index`.
        reason: Why the job waits, in a sentence.
        code: Why the job waits, as a code.
        next_try: When the job is tried again.
        expected_end: When the wait is expected to end; None if it is not known.
        finish_reason: Why the answer ends.
        model: The model that answered.
        usage: How many tokens were used.
    """

    type: Literal["start", "delta", "wait", "restart", "end"]
    id: str = ""
    attempt: int = 0
    text: str = ""
    reasoning: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    reason: str = ""
    code: str = ""
    next_try: datetime | None = None
    expected_end: datetime | None = None
    finish_reason: str | None = None
    model: str | None = None
    usage: Usage = field(default_factory=Usage)


def rows_of(reply: Any) -> list[Row]:
    """Return the records, with their ids, of XREAD's reply: a list or (in RESP3) a mapping."""
    if not reply:
        return []
    if not isinstance(reply, Mapping):
        return list(reply[0][1])
    [batches] = reply.values()
    return [row for batch in batches for row in batch]


def event_of(job: str, row: Row) -> StreamEvent | None:
    """Read one record; None if it cannot be read, because another program wrote it.

    Raises:
        JobCancelled: The record says that the job was cancelled.
        JobFailed: The record says that the job failed.
    """
    identity, fields = row
    if fields.get("status") == "failed":
        name = fields.get("error", "")
        kind = JobCancelled if name == _CANCELLED else JobFailed
        raise kind(job, name, fields.get("reason", ""))
    try:
        return _read(identity, fields)
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _read(identity: str, fields: Mapping[str, str]) -> StreamEvent:
    kind_of_event: Any = fields["type"]
    return StreamEvent(
        kind_of_event,
        identity,
        int(fields.get("attempt", 0)),
        text=fields.get("text", ""),
        reasoning=fields.get("reasoning", ""),
        tool_calls=json.loads(fields.get("tool_calls", "[]")),
        reason=fields.get("reason", ""),
        code=fields.get("code", ""),
        next_try=instant_of(fields.get("next_try")),
        expected_end=instant_of(fields.get("expected_end")),
        finish_reason=fields.get("finish_reason"),
        model=fields.get("model"),
        usage=json.loads(fields.get("usage", "{}")),
    )


def events_of_result(job: str, status: Status) -> Iterable[StreamEvent]:
    """Make the events of a job that has ended and has no stream, or no longer has one.

    Raises:
        JobCancelled: The job was cancelled.
        JobFailed: The job failed.
    """
    returned = outcome_of(job, status)
    result = returned if isinstance(returned, dict) else {}
    attempts = result.get("attempts", 0)
    attempt = attempts if isinstance(attempts, int) else 0
    yield StreamEvent("restart", attempt=attempt)
    yield StreamEvent(
        "delta",
        attempt=attempt,
        text=result.get("text", ""),
        reasoning=result.get("reasoning", ""),
        tool_calls=result.get("tool_calls", []),
    )
    yield StreamEvent(
        "end",
        attempt=attempt,
        finish_reason=result.get("finish_reason"),
        model=result.get("model"),
        usage=result.get("usage", {}),
    )
