import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import BlockingConnectionPool, Redis

from sandbox.process import Sandbox
from tests.integration.emails.email_senders import Senders
from tests.integration.emails.send_requests import Clock
from worker.emails.idempotency import IdempotencyStore


@pytest.fixture(scope="package")
def running() -> Iterator[Sandbox]:
    """Two teams, each with a key and a domain.

    On a busy machine a call with many emails may be in flight for longer than usual.
    """
    with Sandbox(
        resend_keys=2, resend_rps=100, resend_daily=0, resend_monthly=0, grace_ms=2_000
    ) as sandbox:
        yield sandbox


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    connections = BlockingConnectionPool.from_url(
        redis_url, decode_responses=True, max_connections=16
    )
    async with Redis.from_pool(connections) as client:
        yield client
        # A queue that becomes empty leaves its wait list, which must not outlive its connections.
        if others := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(others, timeout=10)


@pytest.fixture
async def senders(running: Sandbox, redis: Redis) -> AsyncIterator[Senders]:
    running.control("reset")
    running.control("limits", service="resend", rps=100)
    async with Senders(running, redis) as senders:
        yield senders


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(redis: Redis, clock: Clock) -> IdempotencyStore:
    return IdempotencyStore(redis, call_ms=60_000, now_ms=clock)
