"""Checks whether a job still belongs to this worker (fencing).

If a worker was frozen for longer than its lease (SIGSTOP, a machine that slept), other workers run
its jobs. It must not make another call for such a job, nor send the job back to its queue.
"""

import logging
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from celery.exceptions import Ignore
from redis.asyncio import Redis
from redis.exceptions import RedisError

_logger = logging.getLogger(__name__)

_UNACKED: Final = "unacked"
"""kombu's name for the hash of the messages that workers hold, by delivery tag."""


@dataclass(frozen=True, slots=True)
class _Run:
    """A run of a job: its message, and when it began, on the monotonic clock."""

    task_id: str
    tag: str
    began_s: float


_run: ContextVar[_Run | None] = ContextVar("the run that this code is part of", default=None)


class Ownership:
    """Notices that this process was frozen, and asks the broker whether it still has its jobs.

    Args:
        broker: The Redis of the broker; None: the broker does not record which worker holds a
            message.
        lease_s: How long a worker may be silent before its jobs go to others, in seconds; 0: its
            jobs never go to others.
    """

    def __init__(self, broker: Redis | None, *, lease_s: float) -> None:
        self._broker = broker if lease_s > 0 else None
        self._longest_s = lease_s / 2
        self._seen_s = self._frozen_s = 0.0

    def begin(self, request: Any) -> None:
        """Note that a run of the job begins.

        Args:
            request: Celery's context of the request.
        """
        self._check_clock()
        tag = (request.properties or {}).get("delivery_tag") if self._broker is not None else None
        _run.set(_Run(str(request.id), tag, time.monotonic()) if isinstance(tag, str) else None)

    @property
    def message(self) -> str:
        """The broker's tag of the running job's message; empty if there is none."""
        run = _run.get()
        return "" if run is None else run.tag

    async def is_lost(self, message: str) -> bool:
        """Whether no worker holds a message: its job has ended, or it goes to another worker.

        Args:
            message: The message's tag, from the property `message` of this or another process.
        """
        if self._broker is None:
            return False
        try:
            return not await self._broker.hexists(_UNACKED, message)
        except RedisError:
            return False  # no other worker gets a job while the broker is down

    async def end_if_lost(self) -> None:
        """End the run here if another worker has the job.

        The broker is asked only if this process was frozen.

        Raises:
            celery.exceptions.Ignore: Another worker has the job, and reports its end.
        """
        self._check_clock()
        run = _run.get()
        if run is None or run.began_s > self._frozen_s:
            return
        if await self.is_lost(run.tag):
            _logger.warning(
                "%s runs in another worker, because this one was frozen for too long; its run here "
                "is dropped",
                run.task_id,
            )
            raise Ignore

    def _check_clock(self) -> None:
        now_s = time.monotonic()
        if now_s - self._seen_s > self._longest_s:
            self._frozen_s = now_s
        self._seen_s = now_s


NO_MESSAGES: Final = Ownership(None, lease_s=0)
"""For jobs without messages, or a broker that does not record which worker holds a message."""
