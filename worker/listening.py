"""Listens for published resets and cancels, and wakes the waiting jobs of this worker."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from redis.exceptions import ConnectionError as LostError
from redis.exceptions import RedisError

from worker.aio.redis_retry import safe_message, warn
from worker.runtime import Runtime

_PING_AFTER_S: Final = 5.0
"""After this silence, the worker asks Redis whether it is still there."""
_LOST_AFTER_S: Final = 15.0
"""After this silence, Redis counts as gone: a machine without power closes no connection."""
_RECONNECT_S: Final = 1.0
_WAKE_AGAIN_S: Final = 2.0
"""How long after a reset deferred jobs are woken again: some may have been deferred meanwhile."""


async def listen(
    runtime: Runtime, *, on_cancelled: Callable[[str], None], on_reset: Callable[[str], None]
) -> None:
    """Listen for published resets and cancels, and wake the jobs that wait here.

    This runs until it is cancelled.

    Args:
        runtime: The worker's objects.
        on_cancelled: Called with the id of each job that is cancelled.
        on_reset: Called with the service of each reset.
    """
    resets = _Resets(runtime, on_reset)
    while True:
        try:
            async with runtime.redis.pubsub() as channel:
                await _listen_on(channel, runtime.cancellations.channel, on_cancelled, resets)
        except RedisError as exc:
            warn("cannot listen for resets and cancels now (%s); trying again", safe_message(exc))
            await asyncio.sleep(_RECONNECT_S)


class _Resets:
    """Wakes the jobs of a service when its keys have changed."""

    def __init__(self, runtime: Runtime, on_reset: Callable[[str], None]) -> None:
        self._runtime = runtime
        self._on_reset = on_reset
        self._again_s: dict[str, float] = {}
        self.channels = {pool.names.wake: service for service, pool in runtime.pools.items()}
        """The service of each channel."""

    @property
    def patience_s(self) -> float:
        """The longest wait for a message, in seconds."""
        return _WAKE_AGAIN_S / 2 if self._again_s else _PING_AFTER_S

    async def wake_again(self) -> None:
        """Wake the jobs of each service that was reset a while ago."""
        now_s = time.monotonic()
        for service in [name for name, at_s in self._again_s.items() if at_s <= now_s]:
            del self._again_s[service]
            await self._runtime.wake_deferred(service)

    async def on_message(self, channel: str, message: str) -> None:
        """Wake the jobs that wait in line, and after a reset also the deferred jobs."""
        service = self.channels[channel]
        self._runtime.rotations[service].waiting.wake()
        if message == "reset":
            self._on_reset(service)
            await self._runtime.wake_deferred(service)
            self._again_s[service] = time.monotonic() + _WAKE_AGAIN_S


async def _listen_on(
    channel: Any, cancels: str, on_cancelled: Callable[[str], None], resets: _Resets
) -> None:
    await channel.subscribe(*resets.channels, cancels)
    heard_s = time.monotonic()
    while True:
        message = await channel.get_message(timeout=resets.patience_s)
        silent_s = time.monotonic() - heard_s
        await resets.wake_again()
        match message:
            case None if silent_s > _LOST_AFTER_S:
                raise LostError(f"Redis has not answered for {_LOST_AFTER_S:g} s")
            case None if silent_s >= _PING_AFTER_S:
                await channel.subscribe(cancels)  # a live server confirms it once more
            case {"type": "message", "channel": str(name), "data": job} if name == cancels:
                on_cancelled(job)
            case {"type": "message", "channel": str(name), "data": what}:
                await resets.on_message(name, what)
        if message is not None:
            heard_s = time.monotonic()
