"""How long the oldest message of a Redis list has waited."""

import time
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any

_EVERY_S = 5.0
_MOST_MARKERS = 128
_REST_TO_SEARCH = 100  # so many times as long as a search took until the next one
_LARGEST_MARKER_BYTES = 65_536
# A message may hold attachments: a large one stays where it is.
_NEWEST = """
local newest = redis.call('LINDEX', KEYS[1], 0)
return newest and #newest <= tonumber(ARGV[1]) and newest or false
"""


@dataclass
class QueueAge:
    """Looks at one list again and again.

    Messages carry no time of their own. So the newest message is remembered every few seconds, and
    as long as one is still there, everything before it has waited at least since then. What waited
    before the first look is not known.
    """

    _markers: list[tuple[Any, float]] = field(default_factory=list)
    _search_at_s: float = 0.0

    def look(self, client: Any, name: str, now_s: float) -> float:
        """Look once.

        Args:
            client: A client of the broker's Redis.
            name: The list; messages come in at its left, and are taken from its right.
            now_s: The time of a clock that never steps back, in seconds.

        Returns:
            The oldest message has waited at least so long, in seconds; of a long list, a few
            seconds ago.
        """
        if now_s >= self._search_at_s:
            began_s = time.perf_counter()
            self._forget_taken(client, name)
            # Redis looks through the whole of a list, and does nothing else meanwhile: 0.1 s where
            # 100,000 wait.
            self._search_at_s = now_s + (time.perf_counter() - began_s) * _REST_TO_SEARCH
        if not self._markers or now_s - self._markers[-1][1] >= _EVERY_S:
            newest = client.eval(_NEWEST, 1, name, _LARGEST_MARKER_BYTES)
            if newest is not None and (not self._markers or newest != self._markers[-1][0]):
                self._markers.append((newest, now_s))
        if len(self._markers) > _MOST_MARKERS:
            self._markers = self._markers[::2]  # the oldest stays
        return now_s - self._markers[0][1] if self._markers else 0.0

    def _forget_taken(self, client: Any, name: str) -> None:
        """Forget the markers that were taken out of the list.

        The newer one of two is taken later.
        """
        if not self._markers or client.lpos(name, self._markers[0][0], rank=-1) is not None:
            return
        del self._markers[
            : bisect_left(
                self._markers, True, key=lambda one: client.lpos(name, one[0]) is not None
            )
        ]
