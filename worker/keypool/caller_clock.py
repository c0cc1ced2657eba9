"""What a process knows of the pool's clock, by its own: no step of Redis' clock changes that."""

import time
from typing import Final

from worker.redis.lua import Clock

_KEPT_MS: Final = 60_000
"""For how long a reading is better than a later one that gives an earlier time, in milliseconds.

After that, the two clocks may have drifted apart by some milliseconds.
"""
_FRESH_MS: Final = 1_000
"""How long a reading may take. One that took longer may have met a Redis that stood still."""
_BOOT_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Linux counts the time in which the machine was suspended in this one only."""


def since_boot_ms() -> int:
    """Return this machine's time since its start, in whole milliseconds."""
    return time.clock_gettime_ns(_BOOT_CLOCK) // 1_000_000


class CallerClock:
    """Gives a lower bound of the time by the pool's clock.

    Redis has only a clock that people and programs set. If it is set forward by ten minutes, that
    looks like ten minutes in which Redis stood still, and in which all buckets would have refilled.
    Its caller knows better: he read the pool's clock before, and has a clock that nobody sets.

    Args:
        own_ms: The caller's own clock, in whole milliseconds since any instant.
    """

    def __init__(self, own_ms: Clock = since_boot_ms) -> None:
        self.own_ms = own_ms
        self._ahead_ms: int | None = None
        self._read_ms = 0

    def least_ms(self) -> int | None:
        """Return what the pool's clock says at least, in milliseconds since 1970.

        Returns:
            None: it was not read yet.
        """
        return None if self._ahead_ms is None else self.own_ms() + self._ahead_ms

    def read(self, pool_ms: int, *, began_ms: int) -> None:
        """Learn what the pool's clock said.

        Args:
            pool_ms: What it said, in milliseconds since 1970.
            began_ms: When it was asked, by the caller's own clock.
        """
        ended_ms = self.own_ms()
        known_ms, ahead_ms = self._ahead_ms, pool_ms - ended_ms
        is_old = known_ms is None or ended_ms - self._read_ms > _KEPT_MS
        if ended_ms - began_ms <= _FRESH_MS and (is_old or ahead_ms >= (known_ms or 0)):
            self._ahead_ms, self._read_ms = ahead_ms, ended_ms
