"""Derives from a service's counters how many jobs end a second, and the time without a call."""

from collections import deque

from worker.keypool import KeyView, PoolView

_MINUTE_MS = 60_000
_MIN_SAMPLES = 2
_QUIET_MS = 10_000
# Below this share of a limit a key may have to wait, so its idleness is not a sign of a standstill.
_MIN_ROOM = 0.1


class _Rate:
    """How fast a counter grew over the last minute.

    A counter that falls (its state was lost) starts anew.
    """

    def __init__(self) -> None:
        self._samples: deque[tuple[int, int]] = deque()

    def add(self, now_ms: int, count: int) -> None:
        samples = self._samples
        if samples and samples[-1][1] > count:
            samples.clear()
        samples.append((now_ms, count))
        while len(samples) > _MIN_SAMPLES and samples[1][0] < now_ms - _MINUTE_MS:
            samples.popleft()

    @property
    def per_s(self) -> float:
        if not self._samples:
            return 0.0
        (first_ms, first), (last_ms, last) = self._samples[0], self._samples[-1]
        return (last - first) * 1000 / (last_ms - first_ms) if last_ms > first_ms else 0.0


class ServiceRates:
    """Turns samples of a service's counters into rates.

    The first sample is the base: what happened before it does not count. A counter that falls (the
    pool's state was lost, or a key was removed) starts anew as well.
    """

    def __init__(self) -> None:
        self._calls: int | None = None
        self._accepted, self._ended = _Rate(), _Rate()
        self._is_quiet, self._grew_ms, self._done = False, 0, (0, 0)
        self._idle_since_ms: int | None = None
        self._idle_s = 0.0

    def add(self, view: PoolView, *, waiting: int, ended: int) -> None:
        """Take a sample.

        Args:
            view: The service's keys.
            waiting: How many of its jobs wait, in the broker or in a worker.
            ended: How many of its jobs have ended, as far as Flower has seen.
        """
        calls = sum(key.calls for key in view.keys)
        has_called, self._calls = self._calls not in {None, calls}, calls
        self._add_done(view, ended)
        has_reason = (
            has_called
            or not waiting
            or any(key.in_flight for key in view.keys)
            or not any(map(_has_room, view.keys))
        )
        if has_reason:
            self._idle_since_ms = None
        elif self._idle_since_ms is None:
            self._idle_since_ms = view.now_ms
        since_ms = self._idle_since_ms
        self._idle_s = 0.0 if since_ms is None else (view.now_ms - since_ms) / 1000

    def _add_done(self, view: PoolView, ended: int) -> None:
        done = sum(key.accepted for key in view.keys), ended
        self._accepted.add(view.now_ms, done[0])
        self._ended.add(view.now_ms, done[1])
        if done != self._done:
            self._done, self._grew_ms = done, view.now_ms
        is_any_ready = any(map(_serves_every_job, view.keys))
        self._is_quiet = not is_any_ready and view.now_ms - self._grew_ms > _QUIET_MS

    @property
    def rate(self) -> float:
        """Jobs that ended a second, over the last minute.

        The larger of two rates, accepted calls and jobs that Flower saw end, because each may be
        too small: a batch of emails is one call but many jobs, and Flower has not seen the jobs
        that ended before it started. If no key is ready and nothing has ended for ten seconds, the
        last minute does not predict the next one, so the rate is 0.
        """
        return 0.0 if self._is_quiet else max(self._accepted.per_s, self._ended.per_s)

    @property
    def idle_s(self) -> float:
        """How long jobs have waited without any call although a key has room, in seconds."""
        return self._idle_s


def _serves_every_job(key: KeyView) -> bool:
    """Return whether a key is ready for every job.

    A key with a block for one resource may be useless for the waiting jobs. For example, all of
    them may be emails from the domain that the key's team has not verified.
    """
    return key.state == "ready" and not any(block.scope == "key_resource" for block in key.blocks)


def _has_room(key: KeyView) -> bool:
    return _serves_every_job(key) and all(
        bucket.remaining >= bucket.limit * _MIN_ROOM for bucket in key.buckets
    )
