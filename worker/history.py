"""What a job remembers of its earlier turns: it travels in the headers when the job is deferred or retried."""

import time
from dataclasses import asdict, dataclass, fields, replace
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
    """

    since_ms: int
    deferrals: int = 0
    attempts: int = 0
    waited_ms: int = 0

    @classmethod
    def of(cls, headers: Any) -> Self:
        """Read the history of a message, or begin one. Whatever a stranger wrote there is harmless."""
        found = headers.get(HEADER) if isinstance(headers, dict) else None
        values = {}
        if isinstance(found, dict):
            names = {field.name for field in fields(cls)}
            values = {
                name: value for name, value in found.items() if name in names and type(value) is int and value >= 0
            }
        now_ms = round(time.time() * 1000)
        since_ms = min(values.pop("since_ms", now_ms), now_ms)
        return cls(since_ms=since_ms, **values)

    @property
    def age_s(self) -> float:
        """Time since the first turn began, in seconds."""
        return max(0.0, time.time() - self.since_ms / 1000)

    def after(self, *, attempts: int, waited_ms: int, deferred: bool = False) -> Self:
        """The history after one more turn."""
        return replace(
            self,
            attempts=self.attempts + attempts,
            waited_ms=self.waited_ms + waited_ms,
            deferrals=self.deferrals + deferred,
        )

    def headers(self) -> dict[str, Any]:
        """What the next message carries."""
        return {HEADER: asdict(self)}
