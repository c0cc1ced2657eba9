"""Outages: a few jobs a second try again, and all come back once a call has succeeded."""

import asyncio
import logging
import random
import time
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from config.celery import DEFERRED
from config.services import SERVICES
from worker.jobs.deferred import count_deferred, wake_deferred
from worker.verdicts import RATE_LIMIT, Dimension

_logger = logging.getLogger(__name__)

_OF_A_LIMIT: Final = frozenset(Dimension) | {
    RATE_LIMIT, "daily_quota", "monthly_quota", "spend_limit", "account_restricted",
    "email_above_quota",
    "disabled", "no_key", "same_email", "same_job", "redis_down", "waiting",
}  # fmt: skip
"""Reasons to wait that are no outage: the instant of the end is known, so no job has to try."""
_MS_A_JOB: Final = 100
_LONGEST_MS: Final = 300_000
_COUNTED_S: Final = 2.0
_PAUSE_S: Final = 10.0


class Outages:
    """Spreads the jobs of one process over an outage, and wakes them at its end.

    A host or a model rests for ten seconds at most, and then one job tries. If all jobs came back
    for that, ten thousand of them would keep a worker busy for the whole outage.

    Args:
        broker: A client of the broker; None: deferred jobs do not wait there, so they cannot be
            counted or woken.
    """

    def __init__(self, broker: Redis | None) -> None:
        self._broker = broker
        self._counts: dict[str, tuple[float, int]] = {}
        self._down: set[str] = set()
        self._until_s: dict[str, float] = {}
        self._woken_s: dict[str, float] = {}
        self._waking: set[asyncio.Task[None]] = set()

    async def countdown_ms(self, service: str, least_ms: int, code: str) -> int:
        """Return when a job comes back that no key may serve now.

        Args:
            service: Its service; empty where its queue has no place for deferred jobs.
            least_ms: The rest that is left, in milliseconds.
            code: Why no key may be called.

        Returns:
            Milliseconds: in an outage a random instant after the rest, later the more jobs
                wait, so that about ten come back each second.
        """
        self._until_s[service] = max(
            self._until_s.get(service, 0.0), time.monotonic() + least_ms / 1000
        )
        if self._broker is None or not service or code in _OF_A_LIMIT:
            return least_ms
        longest_ms = min(_LONGEST_MS, await self._count(self._broker, service) * _MS_A_JOB)
        if longest_ms <= least_ms:
            return least_ms
        self._down.add(service)
        return random.randint(least_ms, longest_ms)  # noqa: S311 - spreads a crowd

    def is_awaited(self, service: str) -> bool:
        """Whether a job of a service still waits that this process has sent back."""
        return time.monotonic() < self._until_s.get(service, 0.0)

    def passed(self, service: str) -> None:
        """Note that a call has succeeded: after an outage, the jobs that wait come back at once."""
        woken_s = self._woken_s.get(service, 0.0)
        if service not in self._down or time.monotonic() < woken_s + _PAUSE_S:
            return
        self._down.discard(service)
        self._woken_s[service] = time.monotonic()
        waking = asyncio.create_task(self._wake(service))
        self._waking.add(waking)
        waking.add_done_callback(self._waking.discard)

    async def _wake(self, service: str) -> None:
        if self._broker is None:
            return
        try:
            await wake_deferred(self._broker, SERVICES[service].queue + DEFERRED)
        except RedisError as exc:
            _logger.debug("jobs cannot be woken after an outage (%s)", type(exc).__name__)
            self._down.add(service)

    async def _count(self, broker: Redis, service: str) -> int:
        at_s, count = self._counts.get(service, (0.0, 0))
        if time.monotonic() < at_s + _COUNTED_S:
            return count
        self._counts[service] = time.monotonic(), count  # one job asks for all
        try:
            count = await count_deferred(broker, SERVICES[service].queue + DEFERRED)
        except RedisError:
            return count
        self._counts[service] = time.monotonic(), count
        return count


NOBODY_COUNTS: Final = Outages(None)
