"""Measures how long the oldest message of a Redis list has waited."""

import time
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any

_MARK_INTERVAL_S = 5.0
_MAX_MARKERS = 128
_PAUSE_FACTOR = 100  # the pause after a search, in multiples of its duration
_MAX_MARKER_BYTES = 65_536
# Large messages, which may hold attachments, are not read.
_NEWEST = """
local newest = redis.call('LINDEX', KEYS[1], 0)
return newest and #newest <= tonumber(ARGV[1]) and newest or false
"""


@dataclass
class QueueAge:
    """Measures one list repeatedly.

    Messages carry no time of their own. So every few seconds the newest message is remembered as a
    marker. While a marker is in the list, all messages before it have waited at least since then.
    How long messages had waited before the first measurement is not known.
    """

    _markers: list[tuple[Any, float]] = field(default_factory=list)
    _search_at_s: float = 0.0

    def measure(self, client: Any, name: str, now_s: float) -> float:
        """Measure once.

        Args:
            client: A client of the broker's Redis.
            name: The list; messages enter at its left, and are taken from its right.
            now_s: The time of a clock that never steps back, in seconds.

        Returns:
            Lower bound of how long the oldest message has waited, in seconds. For a long list, it
            may be a few seconds old.
        """
        if now_s >= self._search_at_s:
            began_s = time.perf_counter()
            self._forget_taken(client, name)
            # A search scans the whole list and blocks Redis meanwhile: 0.1 s for 100,000 messages.
            self._search_at_s = now_s + (time.perf_counter() - began_s) * _PAUSE_FACTOR
        if not self._markers or now_s - self._markers[-1][1] >= _MARK_INTERVAL_S:
            newest = client.eval(_NEWEST, 1, name, _MAX_MARKER_BYTES)
            if newest is not None and (not self._markers or newest != self._markers[-1][0]):
                self._markers.append((newest, now_s))
        if len(self._markers) > _MAX_MARKERS:
            self._markers = self._markers[::2]  # the oldest stays
        return now_s - self._markers[0][1] if self._markers else 0.0

    def _forget_taken(self, client: Any, name: str) -> None:
        """Forget the markers that are no longer in the list, by bisection.

        Of two markers, the newer one leaves the list later.
        """
        if not self._markers or client.lpos(name, self._markers[0][0], rank=-1) is not None:
            return
        del self._markers[
            : bisect_left(
                self._markers, True, key=lambda marker: client.lpos(name, marker[0]) is not None
            )
        ]
