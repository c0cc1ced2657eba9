"""What a service's counters did lately: its last hour, its rate, and since when nothing moves."""

from collections import deque

from worker.dashboard.state import Minute
from worker.keypool import KeyView, PoolView

_MINUTE_MS = 60_000
_MINUTES = 60
_QUIET_MS = 10_000
# a key with less than this of a limit may have to wait for it, and is no sign of a standstill
_ROOM = 0.1


class _Rate:
    """How fast a counter grew over the last minute.

    A counter that falls (its state was lost) starts anew.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[int, int]] = deque()

    def add(self, now_ms: int, count: int) -> None:
        if self._seen and self._seen[-1][1] > count:
            self._seen.clear()
        self._seen.append((now_ms, count))
        while len(self._seen) > 2 and self._seen[1][0] < now_ms - _MINUTE_MS:  # noqa: PLR2004 - a rate needs two
            self._seen.popleft()

    @property
    def a_second(self) -> float:
        if not self._seen:
            return 0.0
        (first_ms, first), (last_ms, last) = self._seen[0], self._seen[-1]
        return (last - first) * 1000 / (last_ms - first_ms) if last_ms > first_ms else 0.0


class Record:
    """Turns counters, seen now and then, into what happened between.

    The first sight only sets the start: what happened before is not this hour's news. A counter
    that falls (the pool's state was lost, or a key was taken out) starts anew as well.
    """

    def __init__(self) -> None:
        self._minutes: deque[Minute] = deque(maxlen=_MINUTES)
        self._seen: tuple[int, int] | None = None
        self._accepted, self._ended = _Rate(), _Rate()
        self._is_quiet, self._grew_ms, self._done = False, 0, (0, 0)
        self._idle_since_ms: int | None = None
        self._idle_s = 0.0

    def add(self, view: PoolView, *, waiting: int, ended: int) -> None:
        """Take one sight of a service.

        Args:
            view: Its keys.
            waiting: Jobs of it that wait, wherever.
            ended: Jobs of it that were ever seen to end.
        """
        now_ms = view.now_ms
        calls, refused = sum(key.calls for key in view.keys), sum(key.refused for key in view.keys)
        before_calls, before_refused = self._seen or (calls, refused)
        self._seen = calls, refused
        start_ms = now_ms - now_ms % _MINUTE_MS
        new_calls, new_refused = max(0, calls - before_calls), max(0, refused - before_refused)
        called = calls != before_calls
        if self._minutes and self._minutes[-1].at_ms == start_ms:
            last = self._minutes.pop()
            new_calls, new_refused = last.calls + new_calls, last.refused + new_refused
        self._minutes.append(Minute(start_ms, new_calls, new_refused))
        done = sum(key.accepted for key in view.keys), ended
        self._accepted.add(now_ms, done[0])
        self._ended.add(now_ms, done[1])
        if done != self._done:
            self._done, self._grew_ms = done, now_ms
        is_any_ready = any(map(_serves_any_job, view.keys))
        self._is_quiet = not is_any_ready and now_ms - self._grew_ms > _QUIET_MS
        if (
            called
            or not waiting
            or any(key.in_flight for key in view.keys)
            or not any(map(_has_room, view.keys))
        ):
            self._idle_since_ms = None
        elif self._idle_since_ms is None:
            self._idle_since_ms = now_ms
        self._idle_s = 0.0 if self._idle_since_ms is None else (now_ms - self._idle_since_ms) / 1000

    @property
    def minutes(self) -> tuple[Minute, ...]:
        """The minutes that were seen, at most sixty, oldest first."""
        return tuple(self._minutes)

    @property
    def rate(self) -> float:
        """Jobs that ended a second, over the last minute.

        Whatever is the larger: calls accepted, or jobs that were seen to end. A batch of emails is
        one call and many jobs; and of what ended before Flower listened nothing was seen. Where all
        keys are out, and nothing has ended for ten seconds, the last minute tells nothing of the
        next one: 0.
        """
        return 0.0 if self._is_quiet else max(self._accepted.a_second, self._ended.a_second)

    @property
    def idle_s(self) -> float:
        """For so long jobs have waited, a key has had room, and no call was made, in seconds."""
        return self._idle_s


def _serves_any_job(key: KeyView) -> bool:
    """Whether no job must pass it by.

    What waits may be mail from the very domain that its team did not verify.
    """
    return key.state == "ready" and not any(block.scope == "key_resource" for block in key.blocks)


def _has_room(key: KeyView) -> bool:
    return _serves_any_job(key) and all(
        bucket.remaining >= bucket.limit * _ROOM for bucket in key.buckets
    )
