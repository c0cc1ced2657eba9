"""Sends commands to Redis in the background: no job waits for them."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import replace
from typing import Any, Final
from weakref import WeakKeyDictionary

from worker.aio import lifespan
from worker.aio.cancelling import cancel_until_ended
from worker.aio.redis_retry import JOB, is_transient, retried, safe_message

_logger = logging.getLogger(__name__)

_MOST: Final = 10_000
"""The most commands that wait to be sent: far more than a worker has calls in flight."""

Ask = Callable[[], Awaitable[Any]]


class _Later:
    """Sends commands one after the other, and repeats each until Redis answers."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[float, Ask]] = deque(maxlen=_MOST)
        self._sending: asyncio.Task[None] | None = None

    def add(self, ask: Ask) -> None:
        self._waiting.append((time.monotonic() + JOB.within_s, ask))
        if self._sending is None:
            # The task gets a context of its own, because it belongs to no job.
            self._sending = asyncio.create_task(self._send(), context=Context())

    async def close(self) -> None:
        if self._sending is not None:
            await cancel_until_ended([self._sending])

    async def _send(self) -> None:
        try:
            while self._waiting:
                until_s, ask = self._waiting.popleft()
                if (left_s := until_s - time.monotonic()) > 0:
                    await _send_until_answered(ask, left_s)
        finally:
            self._sending = None


async def _send_until_answered(ask: Ask, within_s: float) -> None:
    try:
        await retried(ask, replace(JOB, within_s=within_s))
    except Exception as exc:  # noqa: BLE001 - the other commands must still be sent
        _logger.warning(
            "cannot store the end of a call (%s); its records in Redis expire on their own",
            safe_message(exc),
        )


_by_loop: "WeakKeyDictionary[asyncio.AbstractEventLoop, _Later]" = WeakKeyDictionary()


def send_later(ask: Ask, exc: Exception) -> bool:
    """Send a command again in the background until Redis answers, for a minute at most.

    Args:
        ask: Sends the command once. Redis may execute it twice, and up to a minute late.
        exc: The error of the first try.

    Returns:
        Whether the command is sent again. It is not, if the error is not transient.
    """
    if not is_transient(exc):
        return False
    loop = asyncio.get_running_loop()
    if (later := _by_loop.get(loop)) is None:
        later = _by_loop[loop] = _Later()
        lifespan.on_shutdown(later.close)
    later.add(ask)
    return True
