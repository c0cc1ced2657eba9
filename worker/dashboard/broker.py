"""Makes Flower's Broker page connect as workers do, and count all jobs that wait.

Jobs also wait outside their queue's lists: deferred jobs until they are due, and jobs of tenants
in the line of their tenant.
"""

from collections.abc import Iterable
from itertools import islice
from typing import Any

from flower.utils import blocking, broker
from redis.asyncio import Redis
from redis.exceptions import RedisError
from tornado.web import HTTPError

from config.celery import DELAYED_QUEUES
from config.current import get_settings
from config.redis_roles import RedisUrls
from worker.aio.redis_retry import safe_message
from worker.aio.transport import delayed
from worker.aio.transport.scripts import COUNT_PARKED
from worker.broker_errors import BROKER_ERRORS
from worker.redis.client import connect

StockRedis: Any = broker.RedisBase  # Flower has no types
_stock_queues = StockRedis.queues


async def _queues(self: Any, names: Iterable[str]) -> list[dict[str, Any]]:
    """Count the messages of queues.

    Raises:
        HTTPError: 503 if the broker cannot be reached.
    """
    try:
        return await _count(self, names)
    except (RedisError, OSError) as exc:
        raise HTTPError(503, f"The broker does not answer ({safe_message(exc)}).") from exc


async def _count(self: Any, names: Iterable[str]) -> list[dict[str, Any]]:
    queues: list[dict[str, Any]] = await _stock_queues(self, names)
    try:
        async with self.redis.pipeline(transaction=False) as pipe:
            for queue in queues:
                lists = delayed.lists_of(queue["name"], sep=self.sep, steps=self.priority_steps)
                keys = [self.broker_prefix + name for name in lists]
                pipe.eval(COUNT_PARKED, len(keys), *keys)
                for key in keys if queue["name"] in DELAYED_QUEUES else ():
                    pipe.zcard(delayed.due_of(key))
            sizes = iter(await pipe.execute())
    finally:
        await self.redis.aclose()
    for queue in queues:
        is_delayed = queue["name"] in DELAYED_QUEUES
        queue["messages"] += sum(islice(sizes, 1 + is_delayed * len(self.priority_steps)))
    return queues


def _client(self: Any) -> Redis:  # noqa: ARG001 - Flower gives the signature
    """Connect as workers do: Flower would ignore the URL's query, which may name certificates."""
    settings = get_settings()
    return connect(settings, RedisUrls.of(settings).broker_as_pool)


def use_our_broker_client() -> None:
    """Replace Flower's broker client, its count of messages, and its list of connection errors."""
    blocking.CONNECTION_ERRORS = tuple({*blocking.CONNECTION_ERRORS, *BROKER_ERRORS, RedisError})
    StockRedis.queues = _queues
    broker.Redis._get_redis_client = _client  # noqa: SLF001 - Flower has no other way
    broker.RedisSentinel = broker.Redis
