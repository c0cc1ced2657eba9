"""How long the oldest message of a Redis list has waited."""

from dataclasses import dataclass, field
from typing import Any

_EVERY_S = 5.0
_MOST_MARKERS = 128
_LARGEST_MARKER_BYTES = 65_536
# A message may hold attachments: a large one stays where it is.
_NEWEST = """
local newest = redis.call('LINDEX', KEYS[1], 0)
return newest and #newest <= tonumber(ARGV[1]) and newest or false
"""


@dataclass
class QueueAge:
    """Looks at one list again and again.

    Messages carry no time of their own. So the newest message is remembered every few seconds, and as long as one is
    still there, everything before it has waited at least since then. What waited before the first look is not known.
    """

    _markers: list[tuple[Any, float]] = field(default_factory=list)

    def look(self, client: Any, name: str, now_s: float) -> float:
        """Look once.

        Args:
            client: A client of the broker's Redis.
            name: The list; messages come in at its left, and are taken from its right.
            now_s: The time of a clock that never steps back, in seconds.

        Returns:
            The oldest message has waited at least so long, in seconds.
        """
        while self._markers and client.lpos(name, self._markers[0][0], rank=-1) is None:
            del self._markers[0]
        if not self._markers or now_s - self._markers[-1][1] >= _EVERY_S:
            newest = client.eval(_NEWEST, 1, name, _LARGEST_MARKER_BYTES)
            if newest is not None and (not self._markers or newest != self._markers[-1][0]):
                self._markers.append((newest, now_s))
        if len(self._markers) > _MOST_MARKERS:
            self._markers = self._markers[::2]  # the oldest stays
        return now_s - self._markers[0][1] if self._markers else 0.0
