"""Rotation between a scripted provider and the real key pool on a real Redis."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import BlockingConnectionPool, Redis

from tests.integration.rotation.scripted_provider import Make, ScriptedProvider, keys
from worker.keypool import CooldownPolicy, KeyPool
from worker.rotation.rotation import Rotation
from worker.usage import NO_USAGE


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    connections = BlockingConnectionPool.from_url(
        redis_url, decode_responses=True, max_connections=8
    )
    async with Redis.from_pool(connections) as client:
        yield client
        # Nothing of a test may outlive its connections.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            if task.get_name() == "turn":
                task.cancel()
        if others:
            await asyncio.wait(others, timeout=10)


@pytest.fixture
def make(redis: Redis) -> Make:
    def build(
        *script: Any, count: int = 3, accounts: tuple[str, ...] = (), **options: Any
    ) -> tuple[Rotation[str], ScriptedProvider]:
        provider = ScriptedProvider(*script)
        usage = options.pop("usage", NO_USAGE)
        defaults = {"cooldowns": CooldownPolicy(limit_ms=60_000, server_error_ms=5_000)}
        pool = KeyPool(redis, "groq", keys(count, accounts), **(defaults | options))
        return Rotation(pool, provider, usage=usage), provider

    return build
