"""Wait lists of one process, with the real key pool on a real Redis."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import BlockingConnectionPool, Redis

from tests.integration.waitlist.waitlist_line import Line


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_pool(
        BlockingConnectionPool.from_url(redis_url, decode_responses=True)
    ) as client:
        yield client
        # Nothing of a test may outlive its connections.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            if task.get_name() == "job":
                task.cancel()
        if others:
            await asyncio.wait(others, timeout=10)


@pytest.fixture
def line(redis: Redis) -> Line:
    return Line(redis)
