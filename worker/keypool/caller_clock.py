"""Derives the pool's time from a clock of the process, so that no step of Redis' clock matters."""

import time
from typing import Final

from worker.redis.lua import Clock

_KEPT_MS: Final = 60_000
"""How long a reading is preferred to a later one that gives an earlier time, in milliseconds.

After that, the two clocks may have drifted apart by a few milliseconds.
"""
_FRESH_MS: Final = 1_000
"""How long a reading may take, in milliseconds. Others are ignored: Redis may have stood still."""
_BOOT_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""On Linux, only CLOCK_BOOTTIME includes the time in which the machine was suspended."""


def since_boot_ms() -> int:
    """Return this machine's time since its start, in whole milliseconds."""
    return time.clock_gettime_ns(_BOOT_CLOCK) // 1_000_000


class CallerClock:
    """Gives a lower bound of the time by the pool's clock.

    Redis has only a clock that people and programs can set. If that clock is set forward by ten
    minutes, it looks as if Redis had stood still for ten minutes while all buckets refilled. The
    caller can tell the difference: it has read the pool's clock before, and nobody sets its own.

    Args:
        own_ms: The caller's own clock, in whole milliseconds since any instant.
    """

    def __init__(self, own_ms: Clock = since_boot_ms) -> None:
        self.own_ms = own_ms
        self._ahead_ms: int | None = None
        self._read_ms = 0

    def least_ms(self) -> int | None:
        """Return a lower bound of the pool's time, in milliseconds since 1970.

        Returns:
            None if the pool's clock has not been read yet.
        """
        return None if self._ahead_ms is None else self.own_ms() + self._ahead_ms

    def read(self, pool_ms: int, *, began_ms: int) -> None:
        """Learn from a reading of the pool's clock.

        Args:
            pool_ms: The pool's time, in milliseconds since 1970.
            began_ms: When the reading began, by the caller's own clock.
        """
        ended_ms = self.own_ms()
        known_ms, ahead_ms = self._ahead_ms, pool_ms - ended_ms
        is_old = known_ms is None or ended_ms - self._read_ms > _KEPT_MS
        if ended_ms - began_ms <= _FRESH_MS and (is_old or ahead_ms >= (known_ms or 0)):
            self._ahead_ms, self._read_ms = ahead_ms, ended_ms
