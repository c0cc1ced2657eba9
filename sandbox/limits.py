"""The arithmetic of rate limits: pure, with the time passed in.

Times are seconds since the epoch, as floats.
"""

import math
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

MINUTE_S = 60.0
DAY_S = 86_400.0
_MS = 1_000


class Clock:
    """The time of day that never jumps back and can be moved forward by a control call."""

    def __init__(self) -> None:
        self._offset_s = time.time() - time.monotonic()

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.monotonic() + self._offset_s

    def advance(self, seconds: float) -> None:
        """Move the clock on by `seconds`."""
        self._offset_s += max(0.0, seconds)


@dataclass(slots=True)
class Bucket:
    """A limit that refills continuously; full at the start, so a burst of the whole limit passes.

    Attributes:
        limit: How much a full window allows.
        window_s: The window, in seconds.
        used: The use at `at_s`.
        at_s: The time of `used`.
    """

    limit: float
    window_s: float
    used: float = 0.0
    at_s: float = 0.0

    def used_at(self, now_s: float) -> float:
        """Return the use at `now_s`: part of it has drained since the last call."""
        if now_s > self.at_s:
            self.used = max(0.0, self.used - (now_s - self.at_s) * self.limit / self.window_s)
            self.at_s = now_s
        return self.used

    def wait_s(self, now_s: float, requested: float) -> float:
        """How long until `requested` fits.

        It is (used + requested - limit) / limit * window, or 0 if `requested` fits now.

        It is infinite if `requested` exceeds the limit itself and so can never fit.
        """
        if requested > self.limit:
            return math.inf
        over = self.used_at(now_s) + requested - self.limit
        # Draining in many small steps leaves rounding errors, which must not refuse a call that
        # came on time.
        return over / self.limit * self.window_s if over > self.limit * 1e-9 else 0.0

    def take(self, now_s: float, amount: float) -> None:
        """Use `amount`; a negative amount is given back."""
        self.used = max(0.0, self.used_at(now_s) + amount)

    def use_up(self, now_s: float, wait_s: float) -> None:
        """Leave so little that the next request fits in `wait_s`, unless less is left already."""
        self.used = max(self.used_at(now_s), self.limit - 1 + wait_s * self.limit / self.window_s)

    def remaining(self, now_s: float) -> int:
        """The whole units that are left now, never below 0."""
        return max(0, math.floor(self.limit - self.used_at(now_s) + 1e-6))

    def reset_s(self, now_s: float) -> float:
        """How long until the bucket is full again."""
        return self.used_at(now_s) / self.limit * self.window_s


@dataclass(slots=True)
class FixedWindow:
    """A limit whose window starts with the first call after the last window ended."""

    limit: int
    window_s: float = 1.0
    used: int = 0
    start_s: float = -math.inf

    def _roll(self, now_s: float) -> None:
        if now_s >= self.start_s + self.window_s:
            self.start_s, self.used = now_s, 0

    def take(self, now_s: float) -> bool:
        """Use one unit if one is left, and return whether it was."""
        self._roll(now_s)
        if self.used >= self.limit:
            return False
        self.used += 1
        return True

    def remaining(self, now_s: float) -> int:
        """The units that are left in this window."""
        self._roll(now_s)
        return max(0, self.limit - self.used)

    def reset_s(self, now_s: float) -> float:
        """How long this window still lasts."""
        return max(0.0, self.start_s + self.window_s - now_s)


@dataclass(slots=True)
class CalendarQuota:
    """A quota of a UTC day or of a UTC calendar month; a limit of 0 means no quota."""

    limit: int
    monthly: bool = False
    used: int = 0
    resets_at_s: float = 0.0

    def used_at(self, now_s: float) -> int:
        """The use since the last midnight or first of the month."""
        if now_s >= self.resets_at_s:
            self.used = 0
            self.resets_at_s = next_month_s(now_s) if self.monthly else next_midnight_s(now_s)
        return self.used

    def fits(self, now_s: float, amount: int) -> bool:
        """Whether a further `amount` is within the quota."""
        used = self.used_at(now_s)
        return self.limit <= 0 or used + amount <= self.limit

    def take(self, now_s: float, amount: int) -> None:
        """Add `amount` to the use."""
        self.used = self.used_at(now_s) + amount


def next_midnight_s(now_s: float) -> float:
    """The next 00:00 UTC."""
    return (math.floor(now_s / DAY_S) + 1) * DAY_S


def next_month_s(now_s: float) -> float:
    """00:00 UTC of the next first of a month."""
    today = datetime.fromtimestamp(now_s, UTC)
    first = today.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (first + timedelta(days=32)).replace(day=1).timestamp()


def go_duration(seconds: float) -> str:
    """Write a time span as Groq's headers and messages do: `2m59.56s`, `7.66s`, `400ms`, `1h0m5s`.

    The result is rounded up to the millisecond, so that a client that waits that long never comes
    early.
    """
    total_ms = math.ceil(round(seconds * _MS, 6))
    if total_ms <= 0:
        return "0s"
    if total_ms < _MS:
        return f"{total_ms}ms"
    minutes, ms = divmod(total_ms, 60 * _MS)
    whole, part = divmod(ms, _MS)
    text = f"{whole}.{part:03d}".rstrip("0") + "s" if part else f"{whole}s"
    if not minutes:
        return text
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{text}" if hours else f"{minutes}m{text}"


def retry_after(seconds: float) -> int:
    """Write a wait as a `retry-after` header does: whole seconds, rounded up, at least 1."""
    return max(1, math.ceil(round(seconds, 6)))


def iso_utc(at_s: float) -> str:
    """Write a moment as the providers do, in UTC with milliseconds."""
    return (
        datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )
