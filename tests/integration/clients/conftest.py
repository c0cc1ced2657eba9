"""Both providers, and the settings of a program that calls them with the keys of the pool."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from config.current import get_settings
from sandbox.process import Sandbox
from tests.integration.clients.program_calls import MODEL
from worker.aio import private_loop
from worker.runtime import Runtime


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(groq_keys=3, groq_rpm=600, groq_tpm=0, resend_keys=2, resend_rps=100) as started:
        yield started


@pytest.fixture
async def program(
    sandbox: Sandbox, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Sandbox]:
    """A user's own program, in this process; its pool is empty at first."""
    async with Redis.from_url(redis_url) as redis:
        await redis.flushdb()
    sandbox.control("reset", ledger=True)
    for name, value in {**sandbox.env(), "REDIS_URL": redis_url, "GROQ_MODEL": MODEL}.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    yield sandbox
    await Runtime.current().close()
    await asyncio.to_thread(private_loop.run, _close())
    get_settings.cache_clear()


async def _close() -> None:
    """Close the clients that plain functions have opened, on the loop that serves them."""
    await Runtime.current().close()
