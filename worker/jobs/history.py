"""Keeps a job's history: what it remembers of its earlier runs.

The history travels in the headers of the message when the job is deferred or retried.
"""

import time
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from worker import attempts as trails
from worker.aio.transport.headers import DEATHS, DIED_S
from worker.attempts import Attempt, Trail
from worker.foreign_json import as_list, as_text, member

HEADER = "keywheel"
_MOST = 2**53  # the largest integer that every JSON parser keeps, far above any count here
_LONGEST_REASON = 200
_LONGEST_ID = 1_000
ALONE = "keywheel_alone"
"""The header with the number of deaths at which a message began to run as the only suspect.

See `worker.hooks.quarantine`.
"""
DOUBT = "keywheel_doubt_ms"
"""The header of a replayed job with the instant of an earlier attempt that is in doubt.

The instant is in milliseconds since 1970; 0: the job was surely not carried out.
"""


@dataclass(frozen=True, slots=True)
class History:
    """A job's earlier runs.

    Attributes:
        since_ms: When the first run began, in milliseconds since 1970.
        deferrals: How often no key was free.
        attempts: How many calls were made to the provider.
        waited_ms: How long the job waited for keys, in a process or deferred, in milliseconds.
        deferred: Whether the latest run ended because no key was free.
        trail: The latest calls of the earlier runs.
        reason: Why the latest run did not end the job, in a few words.
        in_doubt: Whether the job may have been carried out in the latest run.
        joined: The id of the job with the same `dedupe_key` that this job waits for.
        due_ms: When the deferred job is due, in milliseconds since 1970; 0: it does not wait.
            `waited_ms` already contains the whole wait. If the job comes back earlier (a reset, the
            end of an outage), the rest of the wait is subtracted.
    """

    since_ms: int
    deferrals: int = 0
    attempts: int = 0
    waited_ms: int = 0
    deferred: bool = False
    trail: Trail = ()
    reason: str = ""
    in_doubt: bool = False
    joined: str = ""
    due_ms: int = 0

    @classmethod
    def of(cls, headers: Any) -> Self:
        """Read the history of a message; begin a new one if it is missing or malformed."""
        fields = member(headers, HEADER)
        now_ms = round(time.time() * 1000)
        if not isinstance(fields, dict):
            return cls(now_ms)
        early_ms = max(0, _count(fields, "due_ms") - now_ms)
        joined = as_text(fields.get("joined"))
        return cls(
            since_ms=min(_count(fields, "since_ms") or now_ms, now_ms),
            deferrals=_count(fields, "deferrals"),
            attempts=_count(fields, "attempts"),
            waited_ms=max(0, _count(fields, "waited_ms") - early_ms),
            # An older version wrote "ticket" instead.
            deferred=bool(fields.get("deferred") or fields.get("ticket")),
            trail=_trail(fields),
            reason=as_text(fields.get("reason"))[:_LONGEST_REASON],
            in_doubt=fields.get("in_doubt") is True,
            joined=joined if len(joined) <= _LONGEST_ID else "",
        )

    @property
    def age_s(self) -> float:
        """The time since the first run began, in seconds."""
        return max(0.0, time.time() - self.since_ms / 1000)

    def after(
        self,
        *,
        attempts: int,
        waited_ms: int,
        deferred: bool = False,
        trail: Trail = (),
        reason: str = "",
        in_doubt: bool = False,
        due_ms: int = 0,
    ) -> Self:
        """Return the history after one more run."""
        return replace(
            self,
            attempts=self.attempts + attempts,
            waited_ms=self.waited_ms + waited_ms,
            deferrals=self.deferrals + deferred,
            deferred=deferred,
            trail=trails.latest(self.trail + trail),
            reason=reason[:_LONGEST_REASON],
            in_doubt=in_doubt,
            due_ms=due_ms,
        )

    def headers(self) -> dict[str, Any]:
        """Return the headers of the next message."""
        fields = asdict(self) | {"trail": [attempt.as_json() for attempt in self.trail]}
        for name in ("joined", "due_ms"):
            if not fields[name]:
                del fields[name]
        return {HEADER: fields}


def doubt_ms(headers: Any) -> int:
    """Return when a job may have been carried out for the first time.

    Returns:
        The instant, in milliseconds since 1970; 0 if no earlier attempt is in doubt.
    """
    replayed = _count(headers, DOUBT)
    history = History.of(headers)
    called = next((attempt.at_ms for attempt in history.trail if attempt.in_doubt), 0)
    return replayed or called or (history.since_ms if history.in_doubt else 0)


def was_redelivered(context: Any) -> bool:
    """Whether a worker that died or lost the broker may have run this very message before.

    Args:
        context: Celery's context of the request.
    """
    return bool(member(context.delivery_info, "redelivered") or member(context.headers, DEATHS))


def died_ms(headers: Any) -> int:
    """Return the last sign of life of the first worker that died with a job.

    Returns:
        The instant, in milliseconds since 1970; 0 if it is not known.
    """
    found = member(headers, DIED_S)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return 0
    return round(found * 1000) if 0 < found <= _MOST / 1000 else 0


def _count(fields: Any, name: str) -> int:
    value = member(fields, name)
    return value if type(value) is int and 0 < value <= _MOST else 0


def _trail(fields: dict[str, Any]) -> Trail:
    trail = as_list(fields.get("trail"))
    return tuple(
        attempt for entry in trail[-trails.LONGEST :] if (attempt := Attempt.of(entry)) is not None
    )
