"""What a job remembers of its earlier turns: it travels in the headers when the job is deferred or retried."""

import time
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

HEADER = "keywheel"


@dataclass(frozen=True, slots=True)
class History:
    """A job's earlier turns.

    Attributes:
        since_ms: When the first turn began, in milliseconds since 1970.
        deferrals: How often no key was free.
        attempts: Calls made to the provider.
        waited_ms: Time spent waiting for keys, in the process or deferred, in milliseconds.
        ticket: What the key pool gave the job to bring when it comes back; empty before the first deferral.
    """

    since_ms: int
    deferrals: int = 0
    attempts: int = 0
    waited_ms: int = 0
    ticket: str = ""

    @classmethod
    def of(cls, headers: Any) -> Self:
        """Read the history of a message, or begin one. Whatever a stranger wrote there is harmless."""
        found = headers.get(HEADER) if isinstance(headers, dict) else None
        told: dict[str, Any] = found if isinstance(found, dict) else {}
        now_ms = round(time.time() * 1000)
        ticket = told.get("ticket")
        return cls(
            since_ms=min(_count(told, "since_ms") or now_ms, now_ms),
            deferrals=_count(told, "deferrals"),
            attempts=_count(told, "attempts"),
            waited_ms=_count(told, "waited_ms"),
            ticket=ticket if isinstance(ticket, str) else "",
        )

    @property
    def age_s(self) -> float:
        """Time since the first turn began, in seconds."""
        return max(0.0, time.time() - self.since_ms / 1000)

    def after(self, *, attempts: int, waited_ms: int, ticket: str = "") -> Self:
        """The history after one more turn; `ticket` says that it was a deferral."""
        return replace(
            self,
            attempts=self.attempts + attempts,
            waited_ms=self.waited_ms + waited_ms,
            deferrals=self.deferrals + bool(ticket),
            ticket=ticket,
        )

    def headers(self) -> dict[str, Any]:
        """What the next message carries."""
        return {HEADER: asdict(self)}


def _count(told: dict[str, Any], name: str) -> int:
    value = told.get(name)
    return value if type(value) is int and value > 0 else 0
