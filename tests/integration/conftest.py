"""Clients of Redis, and a separate Redis that a test may stop."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from sandbox.redis import EmbeddedRedis
from worker.aio import redis_retry


@pytest.fixture(autouse=True)
def _heard() -> None:
    """Log every line, even if an earlier test has logged the same one."""
    redis_retry._LogLimit.until_s.clear()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(data_dir=tmp_path) as server:
        yield server


@pytest.fixture
async def own_redis(own_server: EmbeddedRedis) -> AsyncIterator[Redis]:
    connections = BlockingConnectionPool.from_url(
        own_server.url, decode_responses=True, retry=Retry(NoBackoff(), 0), socket_connect_timeout=2
    )
    async with Redis.from_pool(connections) as client:
        yield client


@pytest.fixture
async def broker(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        yield client
