"""A crowd in an outage: few of its jobs ask, and all come back once a call has passed."""

from collections.abc import AsyncIterator
from statistics import mean
from typing import Any

import pytest
from redis.asyncio import Redis

from worker.aio.transport import delayed
from worker.jobs.outages import Outages

SERVICE = "groq"
WAITING = delayed.due_of("ai.deferred")
FAR_US = 9e15


@pytest.fixture
async def broker(redis_url: str) -> AsyncIterator[Any]:
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


async def crowd(broker: Any, jobs: int) -> None:
    await broker.zadd(WAITING, {f"job {number}": FAR_US for number in range(jobs)})


async def waits_ms(outages: Outages, code: str, jobs: int = 300) -> list[int]:
    return [await outages.countdown_ms(SERVICE, 5_000, code) for _ in range(jobs)]


@pytest.mark.parametrize(
    ("jobs", "code", "longest_ms"),
    [
        (0, "connect_error", 5_000),
        (40, "connect_error", 5_000),  # a few may all come back with each rest
        (1_000, "connect_error", 100_000),
        (10_000, "server_error", 300_000),
        (1_000, "rate_limit", 5_000),  # the instant is known
        (1_000, "tpm", 5_000),
    ],
)
async def test_a_crowd_spreads_over_more_than_a_rest(
    broker: Any, jobs: int, code: str, longest_ms: int
) -> None:
    if jobs:
        await crowd(broker, jobs)
    waits = await waits_ms(Outages(broker), code)
    assert min(waits) >= 5_000
    assert 0.9 * longest_ms <= max(waits) <= longest_ms
    assert mean(waits) == pytest.approx((5_000 + longest_ms) / 2, rel=0.2)


async def test_all_come_back_once_a_call_has_passed(broker: Any) -> None:
    await crowd(broker, 1_000)
    outages = Outages(broker)
    outages.passed(SERVICE)
    assert not outages._waking, "there was no outage"
    await waits_ms(outages, "connect_error", 1)
    outages.passed(SERVICE)
    [waking] = outages._waking
    await waking
    assert await broker.get(delayed.next_of("ai.deferred")) == "0"
    await waits_ms(outages, "connect_error", 1)
    outages.passed(SERVICE)
    assert not outages._waking, "one call in many that passes does not wake a crowd each time"
