"""Flower's Broker page and its endpoint of queue lengths.

All URLs that workers take, and jobs not due yet.
"""

from collections.abc import Iterable
from typing import Any

from flower.utils import broker
from redis.asyncio import Redis

from config.celery import DELAYED_QUEUES
from config.settings import RedisUrls, get_settings
from worker.aio.transport import delayed
from worker.runtime import connect

StockRedis: Any = broker.RedisBase  # Flower has no types
_stock_queues = StockRedis.queues


async def _queues(self: Any, names: Iterable[str]) -> list[dict[str, Any]]:
    """Count the messages of queues.

    Raises:
        redis.exceptions.RedisError: The broker cannot be reached.
    """
    found: list[dict[str, Any]] = await _stock_queues(self, names)
    if not (ours := [one for one in found if one["name"] in DELAYED_QUEUES]):
        return found
    try:
        async with self.redis.pipeline(transaction=False) as pipe:
            for one in ours:
                sets = delayed.due_sets_of(one["name"], sep=self.sep, steps=self.priority_steps)
                for name in sets:
                    pipe.zcard(self.broker_prefix + name)
            sizes = await pipe.execute()
    finally:
        await self.redis.aclose()
    for place, one in enumerate(ours):
        one["messages"] += sum(
            sizes[place * len(self.priority_steps) : (place + 1) * len(self.priority_steps)]
        )
    return found


def _client(self: Any) -> Redis:  # noqa: ARG001 - Flower gives the signature
    """Connect as workers do.

    Flower itself overlooks what stands behind the `?` of the URL, certificates among it.
    """
    settings = get_settings()
    return connect(settings, RedisUrls.of(settings).broker_as_pool)


def look_as_workers_do() -> None:
    """Have Flower connect and count so from now on."""
    StockRedis.queues = _queues
    broker.Redis._get_redis_client = _client  # noqa: SLF001 - Flower has no other way
