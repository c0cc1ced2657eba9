"""Limits how many messages a channel takes from each queue, and of which priorities."""

from collections import deque
from collections.abc import Callable
from typing import Final

RECENT_S: Final = 0.05
"""After this time, in seconds, the limit of a queue accounts for a message that was taken."""


class TakeLimits:
    """The limits of a channel's queues."""

    def __init__(self) -> None:
        self._urgent_only: dict[str, int] = {}
        self._more_of: dict[str, Callable[[], int]] = {}
        self._recent: deque[tuple[float, int]] = deque()

    def take_urgent_only(self, queue: str, below: int | None) -> None:
        """Take only messages more urgent than this priority; None to take all."""
        if below is None:
            self._urgent_only.pop(queue, None)
        else:
            self._urgent_only[queue] = below

    def take_at_most(self, queue: str, more: Callable[[], int]) -> None:
        """Take at most as many messages of a queue as `more` returns; each request calls it.

        Messages that were taken too recently to be known to `more` are subtracted.
        """
        self._more_of[queue] = more

    def allows(self, queue: str, priority: int) -> bool:
        """Return whether messages of this priority may be taken from a queue."""
        return priority < self._urgent_only.get(queue, priority + 1)

    def note_taken(self, count: int, now_s: float) -> None:
        """Remember how many messages were taken.

        Args:
            count: The number of messages.
            now_s: The time, on the monotonic clock.
        """
        if self._more_of:
            self._recent.append((now_s, count))

    def within(self, queues: list[str], room: int, now_s: float) -> tuple[list[str], int]:
        """Apply the limits.

        Args:
            queues: The queues that messages may be taken from.
            room: How many messages there is room for.
            now_s: The time, on the monotonic clock.

        Returns:
            The queues from which messages may be taken, and the most messages to take.
        """
        recent = self._taken_lately(now_s)
        bounds = {
            queue: self._more_of[queue]() - recent for queue in queues if queue in self._more_of
        }
        allowed = [queue for queue in queues if bounds.get(queue, 1) > 0]
        return allowed, min(room, *(bound for bound in bounds.values() if bound > 0), room)

    def _taken_lately(self, now_s: float) -> int:
        while self._recent and self._recent[0][0] < now_s - RECENT_S:
            self._recent.popleft()
        return sum(count for _, count in self._recent)
