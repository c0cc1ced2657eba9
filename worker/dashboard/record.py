"""What a service's counters did lately: minutes of the last hour, and the rate of the last one."""

from collections import deque

from worker.dashboard.board import Minute

_MINUTE_MS = 60_000
_MINUTES = 60


class Record:
    """Turns counters, seen now and then, into what happened between.

    The first sight only sets the start: what happened before is not this hour's news. A counter that falls (the pool's
    state was lost, or a key was taken out) starts anew as well.
    """

    def __init__(self) -> None:
        self._minutes: deque[Minute] = deque(maxlen=_MINUTES)
        self._seen: tuple[int, int] | None = None
        self._accepted: deque[tuple[int, int]] = deque()

    def add(self, *, now_ms: int, calls: int, refused: int, accepted: int) -> None:
        """Take one sight of the counters.

        Args:
            now_ms: When, in milliseconds since 1970.
            calls: Calls ever made.
            refused: Refusals ever met.
            accepted: Calls ever accepted.
        """
        before_calls, before_refused = self._seen or (calls, refused)
        self._seen = calls, refused
        start_ms = now_ms - now_ms % _MINUTE_MS
        new_calls, new_refused = max(0, calls - before_calls), max(0, refused - before_refused)
        if self._minutes and self._minutes[-1].at_ms == start_ms:
            last = self._minutes.pop()
            new_calls, new_refused = last.calls + new_calls, last.refused + new_refused
        self._minutes.append(Minute(start_ms, new_calls, new_refused))
        if self._accepted and self._accepted[-1][1] > accepted:
            self._accepted.clear()
        self._accepted.append((now_ms, accepted))
        while len(self._accepted) > 2 and self._accepted[1][0] < now_ms - _MINUTE_MS:  # noqa: PLR2004 - a rate needs two
            self._accepted.popleft()

    @property
    def minutes(self) -> tuple[Minute, ...]:
        """The minutes that were seen, at most sixty, oldest first."""
        return tuple(self._minutes)

    @property
    def rate(self) -> float:
        """Calls accepted a second, over the last minute."""
        if not self._accepted:
            return 0.0
        (first_ms, first), (last_ms, last) = self._accepted[0], self._accepted[-1]
        return (last - first) * 1000 / (last_ms - first_ms) if last_ms > first_ms else 0.0
