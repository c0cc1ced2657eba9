"""Flower's Broker page and its endpoint of queue lengths, with the jobs that Redis keeps until they are due."""

from collections.abc import Iterable
from typing import Any

from flower.utils import broker

from config.celery import DELAYED_QUEUES
from worker.aio import delayed

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
        one["messages"] += sum(sizes[place * len(self.priority_steps) : (place + 1) * len(self.priority_steps)])
    return found


def count_what_is_delayed() -> None:
    """Have Flower count it from now on."""
    StockRedis.queues = _queues
