"""Finds deferred jobs in the broker, wakes them, and notes the outages that they wait for.

The functions need a client of the broker's Redis, which may not be the key pool's Redis.
"""

import json
from collections.abc import Collection, Iterable
from typing import Final

from redis.asyncio import Redis

from worker.aio.transport import delayed
from worker.aio.transport.scripts import WAKE, WAKE_SOME
from worker.cancellations import stamps_in

_OUTAGE_KEPT_S: Final = 7_200
"""Longer than any job waits in an outage before it tries again."""


async def wake_deferred(redis: Redis, queue: str) -> int:
    """Make all deferred jobs of a queue due now, in their order.

    One script does all of it; 100,000 jobs keep Redis busy for a tenth of a second. A second call
    changes nothing.

    Args:
        redis: A client of the broker.
        queue: The delayed queue, for example `ai.deferred`.

    Returns:
        How many jobs there are.

    Raises:
        redis.exceptions.RedisError: The broker cannot be reached.
    """
    keys = (delayed.next_of(queue), *delayed.due_sets_of(queue))
    woken: int = await redis.eval(WAKE, len(keys), *keys)
    return woken


async def wake_jobs(redis: Redis, queue: str, ids: Iterable[str]) -> int:
    """Make some deferred jobs of a queue due now, and before all others.

    Args:
        redis: A client of the broker.
        queue: The delayed queue, for example `ai.deferred`.
        ids: The ids of the jobs; ids of jobs that do not wait there are ignored.

    Returns:
        How many jobs are due now.

    Raises:
        redis.exceptions.RedisError: The broker cannot be reached.
    """
    keys = (delayed.next_of(queue), *delayed.due_sets_of(queue))
    woken: int = await redis.eval(WAKE_SOME, len(keys), *keys, *ids)
    return woken


async def find_stamped(redis: Redis, queue: str, stamps: Collection[str]) -> list[str]:
    """Find the deferred jobs of a queue that have one of these stamps.

    This reads all messages of the queue, a hundred at a time.

    Args:
        redis: A client of the broker.
        queue: The delayed queue, for example `ai.deferred`.
        stamps: The stamps, as `worker.cancellations.stamps_in` returns them.

    Returns:
        The jobs' ids.

    Raises:
        redis.exceptions.RedisError: The broker cannot be reached.
    """
    texts = redis.hscan_iter(delayed.texts_of(queue), count=100)
    return [
        task_id async for task_id, text in texts if not set(stamps).isdisjoint(_stamps_of(text))
    ]


def _stamps_of(text: str) -> tuple[str, ...]:
    if '"stamps"' not in text or '"stamps": {}' in text or '"stamps":{}' in text:  # most messages
        return ()
    try:
        stamps = json.loads(text)["headers"]["stamps"]
    except (ValueError, LookupError, TypeError):
        return ()  # the worker that takes the message reports the error
    return stamps_in(stamps) if isinstance(stamps, dict) else ()


async def note_outage(redis: Redis, queue: str, model: str) -> None:
    """Note that jobs of a queue wait for the end of an outage.

    Args:
        redis: A client of the broker.
        queue: The delayed queue, for example `ai.deferred`.
        model: The model that the jobs wait for; empty if the service has no models.

    Raises:
        redis.exceptions.RedisError: The broker cannot be reached.
    """
    name = _outage_of(queue)
    async with redis.pipeline(transaction=False) as pipe:
        pipe.sadd(name, model)
        pipe.expire(name, _OUTAGE_KEPT_S)
        await pipe.execute()


async def end_outage(redis: Redis, queue: str, model: str) -> bool:
    """Wake the deferred jobs of a queue and forget the outage, if one is noted.

    Args:
        redis: A client of the broker.
        queue: The delayed queue, for example `ai.deferred`.
        model: The model with which a call has succeeded.

    Returns:
        Whether an outage was noted.

    Raises:
        redis.exceptions.RedisError: The broker cannot be reached.
    """
    name = _outage_of(queue)
    if model not in await redis.smembers(name):
        return False
    await wake_deferred(redis, queue)
    await redis.srem(name, model)  # comes last: if the wake fails, the next call repeats it
    return True


def _outage_of(queue: str) -> str:
    return f"{queue}.outage"
