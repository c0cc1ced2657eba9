"""Detects a broker that ends connections as soon as they are open."""

from collections import deque
from typing import Final

_MOST: Final = 5
_WITHIN_S: Final = 1.0


class Losses:
    """The latest connections that were lost."""

    def __init__(self) -> None:
        self._at_s: Final[deque[float]] = deque(maxlen=_MOST)

    def are_frequent(self, now_s: float) -> bool:
        """Note a loss; return whether this was the fifth loss within a second.

        Args:
            now_s: The time of the loss, in seconds on any clock.
        """
        self._at_s.append(now_s)
        return len(self._at_s) == _MOST and now_s - self._at_s[0] < _WITHIN_S
