from collections.abc import AsyncIterator

import pytest
from redis.asyncio import BlockingConnectionPool, Redis

from worker.streams import StreamWriter


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client made as the runtime makes its client."""
    client = Redis.from_pool(
        BlockingConnectionPool.from_url(redis_url, decode_responses=True, max_connections=4)
    )
    yield client
    await client.aclose()


@pytest.fixture
async def writer(redis: Redis) -> AsyncIterator[StreamWriter]:
    made = StreamWriter(redis, namespace="kw", expires_s=600)
    yield made
    await made.close()


@pytest.fixture
async def other(redis: Redis) -> AsyncIterator[StreamWriter]:
    """The writer of another worker."""
    made = StreamWriter(redis, namespace="kw", expires_s=600)
    yield made
    await made.close()
