"""Listens for published resets and cancels, and wakes the jobs of this worker that wait."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from redis.exceptions import ConnectionError as LostError
from redis.exceptions import RedisError

from worker.aio.redis_retry import warn, words_of
from worker.runtime import Runtime

_SILENCE_S: Final = 5.0
"""After this silence, Redis is asked whether it is still there."""
_DEAF_S: Final = 15.0
"""After this one it is not: a machine that loses its power closes no connection."""
_RECONNECT_S: Final = 1.0
_WAKE_AGAIN_S: Final = 2.0
"""How long after a reset jobs are woken once more: some may have gone back after the first time."""


async def listen(
    runtime: Runtime, *, on_cancelled: Callable[[str], None], on_reset: Callable[[str], None]
) -> None:
    """Listen for published resets and cancels, and wake the jobs that wait here.

    It runs until it is cancelled.

    Args:
        runtime: The worker's objects.
        on_cancelled: Takes the id of each job that is cancelled.
        on_reset: Takes the service of each reset.
    """
    again_s: dict[str, float] = {}
    while True:
        try:
            async with runtime.redis.pubsub() as channel:
                await _listen_on(channel, runtime, again_s, on_cancelled, on_reset)
        except RedisError as exc:
            warn("cannot listen for resets and cancels now (%s); trying again", words_of(exc))
            await asyncio.sleep(_RECONNECT_S)


async def _listen_on(
    channel: Any,
    runtime: Runtime,
    again_s: dict[str, float],
    on_cancelled: Callable[[str], None],
    on_reset: Callable[[str], None],
) -> None:
    services = {pool.names.wake: service for service, pool in runtime.pools.items()}
    cancels = runtime.cancellations.channel
    await channel.subscribe(*services, cancels)
    heard_s = time.monotonic()
    while True:
        message = await channel.get_message(timeout=_WAKE_AGAIN_S / 2 if again_s else _SILENCE_S)
        now_s = time.monotonic()
        for service in [name for name, at_s in again_s.items() if at_s <= now_s]:
            del again_s[service]
            await runtime.wake_deferred(service)
        if message is not None:
            heard_s = now_s
        elif now_s - heard_s > _DEAF_S:
            raise LostError(f"Redis has said nothing for {_DEAF_S:g} s")
        elif now_s - heard_s >= _SILENCE_S:
            await channel.subscribe(cancels)  # a live server confirms it once more
        match message:
            case {"type": "message", "channel": str(name), "data": job} if name == cancels:
                on_cancelled(job)
            case {"type": "message", "channel": str(name), "data": what}:
                service = services[name]
                runtime.rotations[service].waiting.wake()
                if what == "reset":
                    on_reset(service)
                    await runtime.wake_deferred(service)
                    again_s[service] = now_s + _WAKE_AGAIN_S
