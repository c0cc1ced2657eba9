"""Deferred jobs in the broker: counts them, finds some, makes them due now.

The functions need a client of the Redis of the broker, which the key pool may not share.
"""

import json
from collections.abc import Collection, Iterable

from redis.asyncio import Redis

from worker.aio.transport import delayed
from worker.aio.transport.scripts import WAKE, WAKE_SOME
from worker.cancellations import stamps_in


async def wake_deferred(redis: Redis, queue: str) -> int:
    """Make all deferred jobs of a queue due now, in their order.

    One script does it; 100,000 jobs keep Redis busy for a tenth of a second. A second call changes
    nothing.

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
        ids: The ids of the jobs; those that do not wait there are ignored.

    Returns:
        How many jobs are due now.

    Raises:
        redis.exceptions.RedisError: The broker cannot be reached.
    """
    keys = (delayed.next_of(queue), *delayed.due_sets_of(queue))
    woken: int = await redis.eval(WAKE_SOME, len(keys), *keys, *ids)
    return woken


async def find_stamped(redis: Redis, queue: str, stamps: Collection[str]) -> list[str]:
    """Find the deferred jobs of a queue that have one of some stamps.

    It reads all messages of the queue, a hundred at a time.

    Args:
        redis: A client of the broker.
        queue: The delayed queue, for example `ai.deferred`.
        stamps: As `worker.cancellations.stamps_in` gives them.

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
        found = json.loads(text)["headers"]["stamps"]
    except (ValueError, LookupError, TypeError):
        return ()  # the worker that takes the message judges it
    return stamps_in(found) if isinstance(found, dict) else ()


async def count_deferred(redis: Redis, queue: str) -> int:
    """Count the jobs of a queue that wait for their instant.

    Args:
        redis: A client of the broker.
        queue: The delayed queue, for example `ai.deferred`.

    Raises:
        redis.exceptions.RedisError: The broker cannot be reached.
    """
    async with redis.pipeline(transaction=False) as pipe:
        for name in delayed.due_sets_of(queue):
            pipe.zcard(name)
        return sum(await pipe.execute())
