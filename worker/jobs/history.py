"""What a job remembers of its earlier turns.

It travels in the headers when the job is deferred or retried.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from worker import attempts as trails
from worker.attempts import Attempt, Trail

HEADER = "keywheel"
_MOST = 2**53  # what JSON carries everywhere, and far above any count of ours
_LONGEST_REASON = 200
DEATHS = "deaths"
"""The header that counts how many workers died while they held the message.

The transport writes it.
"""
ALONE = "keywheel_alone"
"""The header that tells with how many deaths a message began to run as the only suspect.

See `worker.hooks.quarantine`.
"""
DIED_S = "died_s"
"""The header that tells when the first of them was last heard of, in seconds since 1970.

As well the transport's.
"""
DOUBT = "keywheel_doubt_ms"
"""The header of a replayed job.

When it may have been carried out before, in milliseconds since 1970; 0: surely not.
"""


@dataclass(frozen=True, slots=True)
class History:
    """A job's earlier turns.

    Attributes:
        since_ms: When the first turn began, in milliseconds since 1970.
        deferrals: How often no key was free.
        attempts: Calls made to the provider.
        waited_ms: Time spent waiting for keys, in the process or deferred, in milliseconds.
        deferred: The last turn ended since no key was free.
        trail: The latest calls of the earlier turns.
        reason: Why the last turn was not the end, in a few words.
        in_doubt: After the last turn the job may have been carried out, by whomever.
    """

    since_ms: int
    deferrals: int = 0
    attempts: int = 0
    waited_ms: int = 0
    deferred: bool = False
    trail: Trail = ()
    reason: str = ""
    in_doubt: bool = False

    @classmethod
    def of(cls, headers: Any) -> Self:
        """Read the history of a message, or begin one.

        Whatever a stranger wrote there is harmless.
        """
        found = headers.get(HEADER) if isinstance(headers, dict) else None
        told: dict[str, Any] = found if isinstance(found, dict) else {}
        now_ms = round(time.time() * 1000)
        reason = told.get("reason")
        return cls(
            since_ms=min(_count(told, "since_ms") or now_ms, now_ms),
            deferrals=_count(told, "deferrals"),
            attempts=_count(told, "attempts"),
            waited_ms=_count(told, "waited_ms"),
            deferred=bool(
                told.get("deferred") or told.get("ticket")
            ),  # the second is an older version's word for it
            trail=_trail(told),
            reason=reason[:_LONGEST_REASON] if isinstance(reason, str) else "",
            in_doubt=told.get("in_doubt") is True,
        )

    @property
    def age_s(self) -> float:
        """Time since the first turn began, in seconds."""
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
    ) -> Self:
        """The history after one more turn."""
        return replace(
            self,
            attempts=self.attempts + attempts,
            waited_ms=self.waited_ms + waited_ms,
            deferrals=self.deferrals + deferred,
            deferred=deferred,
            trail=trails.latest(self.trail + trail),
            reason=reason[:_LONGEST_REASON],
            in_doubt=in_doubt,
        )

    def headers(self) -> dict[str, Any]:
        """What the next message carries."""
        return {HEADER: asdict(self) | {"trail": [attempt.as_json() for attempt in self.trail]}}


def doubt_ms(headers: Any) -> int:
    """When a job may have been carried out for the first time.

    Returns:
        The instant, in milliseconds since 1970; 0 where nothing says that it was carried out.
    """
    replayed = _count(headers, DOUBT) if isinstance(headers, dict) else 0
    history = History.of(headers)
    called = next((attempt.at_ms for attempt in history.trail if attempt.in_doubt), 0)
    return replayed or called or (history.since_ms if history.in_doubt else 0)


def came_again(context: Any) -> bool:
    """Whether a worker may have had this very message already and not said how it went.

    It died, or lost its broker.

    Args:
        context: Celery's context of the request.
    """
    delivery = context.delivery_info if isinstance(context.delivery_info, Mapping) else {}
    headers = context.headers if isinstance(context.headers, Mapping) else {}
    return bool(delivery.get("redelivered") or headers.get(DEATHS))


def died_ms(headers: Any) -> int:
    """When the first worker that died with a job gave its last sign of life.

    Returns:
        The instant, in milliseconds since 1970; 0 where it is not known.
    """
    found = headers.get(DIED_S) if isinstance(headers, Mapping) else None
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return 0
    return round(found * 1000) if 0 < found <= _MOST / 1000 else 0


def _count(told: dict[str, Any], name: str) -> int:
    value = told.get(name)
    return value if type(value) is int and 0 < value <= _MOST else 0


def _trail(told: dict[str, Any]) -> Trail:
    found = told.get("trail")
    if not isinstance(found, list):
        return ()
    return tuple(
        attempt for one in found[-trails.LONGEST :] if (attempt := Attempt.of(one)) is not None
    )
