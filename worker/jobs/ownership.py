"""Whether a job is still this worker's.

A worker that stood still for longer than its lease (a frozen process, a machine that slept) has
lost its jobs: others run them. It must not make another call for such a job, nor send it back to
its queue.
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
"""kombu's name for the hash of messages that are being worked on, by delivery tag."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """A job's turn: whose message it is, and when it began, on the monotonic clock."""

    task_id: str
    tag: str
    began_s: float


_turn: ContextVar[_Turn | None] = ContextVar("the turn of the running job", default=None)


class Ownership:
    """Notices that this process stood still, and asks the broker then for each job that it had.

    Args:
        broker: The broker's Redis; None: it keeps no such book, so nobody can tell.
        lease_s: How long a worker may be silent before its jobs go to others, in seconds; 0: jobs
            never do.
    """

    def __init__(self, broker: Redis | None, *, lease_s: float) -> None:
        self._broker = broker if lease_s > 0 else None
        self._longest_s = lease_s / 2
        self._seen_s = self._stood_still_s = 0.0

    def begin(self, request: Any) -> None:
        """Note that a turn of the running job begins.

        Args:
            request: Celery's context of the request.
        """
        self._look()
        tag = (request.properties or {}).get("delivery_tag") if self._broker is not None else None
        _turn.set(_Turn(str(request.id), tag, time.monotonic()) if isinstance(tag, str) else None)

    async def end_if_lost(self) -> None:
        """End the running job here if another worker has it.

        Costs nothing while this process goes on.

        Raises:
            celery.exceptions.Ignore: It is lost: whoever has it now tells its end.
        """
        self._look()
        turn = _turn.get()
        if turn is None or turn.began_s > self._stood_still_s or self._broker is None:
            return
        try:
            ours = await self._broker.hexists(_UNACKED, turn.tag)
        except RedisError:
            return  # nobody can be given a job while the broker is away
        if not ours:
            _logger.warning("%s runs elsewhere: this worker stood still for too long", turn.task_id)
            raise Ignore

    def _look(self) -> None:
        now_s = time.monotonic()
        if now_s - self._seen_s > self._longest_s:
            self._stood_still_s = now_s
        self._seen_s = now_s
