"""Lets only a few jobs a second try again in an outage, and wakes all once a call has succeeded."""

import asyncio
import heapq
import logging
import random
import time
from collections.abc import Iterable
from typing import Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from config.celery import DEFERRED
from config.services import SERVICES
from worker.jobs.deferred import end_outage, note_outage
from worker.verdicts import RATE_LIMIT, Dimension

_logger = logging.getLogger(__name__)

_OF_A_LIMIT: Final = frozenset(Dimension) | {
    RATE_LIMIT, "daily_quota", "monthly_quota", "spend_limit", "account_restricted",
    "email_above_quota",
    "disabled", "paused", "no_key", "same_email", "same_job", "redis_down", "waiting",
}  # fmt: skip
"""Reasons to wait that are not an outage. The end of such a wait is known: no job needs to try."""
_MS_A_JOB: Final = 1_000
"""The longest wait, per waiting job. On average a job waits half of it: two come back a second."""
_LONGEST_MS: Final = 3_600_000
_NOTED_S: Final = 60.0
_PAUSE_S: Final = 10.0
_MANY: Final = 256
"""Above this number of models, the entries of models that no job waits for are deleted."""


class Outages:
    """Spreads the jobs of one process over an outage, and wakes them at its end.

    In an outage, a host or a model rests for ten seconds at most, and then one job tries again. If
    all jobs came back for this, ten thousand jobs would keep a worker busy for the whole outage.
    Outages are counted by model: if one model is down and another serves, only the jobs of the
    first wait.

    The models that are down are also noted in the broker, so that a worker that starts during the
    outage can wake the jobs.

    Args:
        broker: A client of the broker; None: deferred jobs do not wait in a Redis, so they cannot
            be woken.
    """

    def __init__(self, broker: Redis | None) -> None:
        self._broker = broker
        self._due_s: dict[tuple[str, str], list[float]] = {}
        self._many = _MANY
        self._noted_s: dict[tuple[str, str], float] = {}
        self._asked_s: dict[tuple[str, str], float] = {}
        self._woken_s: dict[tuple[str, str], float] = {}
        self._waking: set[asyncio.Task[None]] = set()

    async def countdown_ms(
        self, service: str, least_ms: int, code: str, *, models: Iterable[str] = ("",)
    ) -> int:
        """Return how long a job waits that no key may serve now.

        Args:
            service: The job's service; empty if its queue has no deferred queue.
            least_ms: How long the rest still lasts, in milliseconds.
            code: Why no key may be called.
            models: The models that may serve the job.

        Returns:
            The wait in milliseconds. In an outage it is a random time after the rest. The more jobs
                wait, the longer it may be, so that about two jobs come back each second.
        """
        now_s = time.monotonic()
        if self._broker is None or not service or code in _OF_A_LIMIT:
            return least_ms
        names = [(service, model) for model in models]
        self._forget_ended(now_s)
        crowd = max(self._count(name, now_s) for name in names)
        longest_ms = max(least_ms, min(_LONGEST_MS, crowd * _MS_A_JOB))
        countdown_ms = random.randint(least_ms, longest_ms)  # noqa: S311 - spreads a crowd
        for name in names:
            heapq.heappush(self._due_s.setdefault(name, []), now_s + countdown_ms / 1000)
            if longest_ms > least_ms:  # a few jobs come back soon enough without a wake
                await self._note(self._broker, name, now_s)
        return countdown_ms

    def passed(self, service: str, model: str) -> None:
        """Note that a call has succeeded; if this ends an outage, wake the jobs that wait.

        Args:
            service: The service of the job; empty if its queue has no deferred queue.
            model: The model that served; empty if the service has no models.
        """
        name, now_s = (service, model), time.monotonic()
        last_s = (self._woken_s if name in self._noted_s else self._asked_s).get(name, -_PAUSE_S)
        if self._broker is None or not service or now_s < last_s + _PAUSE_S:
            return
        self._asked_s[name] = now_s
        waking = asyncio.create_task(self._wake_after_outage(self._broker, name))
        self._waking.add(waking)
        waking.add_done_callback(self._waking.discard)

    def _forget_ended(self, now_s: float) -> None:
        """Delete models that no job waits for, because jobs may name any number of models."""
        if len(self._due_s) < self._many:
            return
        self._due_s = {
            name: due_s for name, due_s in self._due_s.items() if max(due_s, default=0.0) > now_s
        }
        self._noted_s = {name: s for name, s in self._noted_s.items() if name in self._due_s}
        self._many = max(_MANY, 2 * len(self._due_s))

    def _count(self, name: tuple[str, str], now_s: float) -> int:
        """Count the jobs that this process has sent back and that are not due yet."""
        due_s = self._due_s.get(name, [])
        while due_s and due_s[0] <= now_s:
            heapq.heappop(due_s)
        return len(due_s)

    async def _note(self, broker: Redis, name: tuple[str, str], now_s: float) -> None:
        if now_s < self._noted_s.get(name, -_NOTED_S) + _NOTED_S:
            return
        self._noted_s[name] = now_s  # one job writes for all
        try:
            await note_outage(broker, _queue_of(name), name[1])
        except RedisError:
            self._noted_s.pop(name, None)

    async def _wake_after_outage(self, broker: Redis, name: tuple[str, str]) -> None:
        try:
            self._noted_s.pop(name, None)
            if await end_outage(broker, _queue_of(name), name[1]):
                self._due_s.pop(name, None)
                self._woken_s[name] = time.monotonic()
        except RedisError as exc:
            _logger.debug("jobs cannot be woken after an outage (%s)", type(exc).__name__)
            self._asked_s.pop(name, None)


def _queue_of(name: tuple[str, str]) -> str:
    return SERVICES[name[0]].queue + DEFERRED


NO_OUTAGES: Final = Outages(None)
