"""Makes Flower's Broker page connect as workers do, and count the jobs that are not due yet."""

from collections.abc import Iterable
from typing import Any

from flower.utils import broker
from redis.asyncio import Redis

from config.celery import DELAYED_QUEUES
from config.current import get_settings
from config.redis_roles import RedisUrls
from worker.aio.transport import delayed
from worker.redis.client import connect

StockRedis: Any = broker.RedisBase  # Flower has no types
_stock_queues = StockRedis.queues


async def _queues(self: Any, names: Iterable[str]) -> list[dict[str, Any]]:
    """Count the messages of queues.

    Raises:
        redis.exceptions.RedisError: The broker cannot be reached.
    """
    queues: list[dict[str, Any]] = await _stock_queues(self, names)
    if not (ours := [queue for queue in queues if queue["name"] in DELAYED_QUEUES]):
        return queues
    try:
        async with self.redis.pipeline(transaction=False) as pipe:
            for queue in ours:
                sets = delayed.due_sets_of(queue["name"], sep=self.sep, steps=self.priority_steps)
                for name in sets:
                    pipe.zcard(self.broker_prefix + name)
            sizes = await pipe.execute()
    finally:
        await self.redis.aclose()
    for index, queue in enumerate(ours):
        queue["messages"] += sum(
            sizes[index * len(self.priority_steps) : (index + 1) * len(self.priority_steps)]
        )
    return queues


def _client(self: Any) -> Redis:  # noqa: ARG001 - Flower gives the signature
    """Connect as workers do, since Flower ignores the URL's query: certificates, for example."""
    settings = get_settings()
    return connect(settings, RedisUrls.of(settings).broker_as_pool)


def use_our_broker_client() -> None:
    """Replace Flower's client of the broker, and its way to count messages."""
    StockRedis.queues = _queues
    broker.Redis._get_redis_client = _client  # noqa: SLF001 - Flower has no other way
    broker.RedisSentinel = broker.Redis
