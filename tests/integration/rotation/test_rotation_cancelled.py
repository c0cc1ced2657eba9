"""Cancelled jobs make no call, and checking for a cancel adds no round trip."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from celery.worker import state
from redis.asyncio import Redis

from tests.integration.rotation.scripted_provider import NOTHING_OUT, Make, leases_out, rest
from worker import cancellations
from worker.aio.errors import Revoked
from worker.aio.shared_connection import Link
from worker.cancellations import Cancellations
from worker.keypool import LeaseRequest

JOB = "a job that may be cancelled"
REQUEST = LeaseRequest(by=JOB)


@pytest.fixture
async def stored(redis: Redis) -> AsyncIterator[Cancellations]:
    stored = Cancellations(redis, namespace="kw")
    cancellations.use(stored)
    yield stored
    state.revoked.discard(JOB)


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The round trips to Redis, each with its number of commands."""
    trips: list[int] = []
    flush = Link._flush

    def counting(self: Any) -> None:
        trips.append(len(self._outgoing))
        flush(self)

    monkeypatch.setattr(Link, "_flush", counting)
    return trips


async def test_a_call_takes_two_trips_to_redis(
    make: Make, stored: Cancellations, trips: list[int]
) -> None:
    rotation, provider = make()
    await rotation.serve(REQUEST, lambda lease: lease.key.label)  # loads the scripts
    del trips[:]
    await rotation.serve(REQUEST, lambda lease: lease.key.label)
    assert trips == [2, 1], "acquire together with the check for a cancel, then settle"
    assert len(provider.seen) == 2


async def test_a_cancelled_job_makes_no_call(
    make: Make, redis: Redis, stored: Cancellations
) -> None:
    rotation, provider = make()
    await stored.cancel([JOB], by="test")
    with pytest.raises(Revoked):
        await rotation.serve(REQUEST, lambda lease: lease.key.label)
    assert not provider.seen
    assert await leases_out(redis) == NOTHING_OUT


async def test_a_cancel_while_the_job_waits_for_its_key_is_seen_before_the_call(
    make: Make, redis: Redis, stored: Cancellations, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotation, provider = make(count=1)
    await rest(rotation, 200)
    acquire, acquired = rotation.pool.acquire, asyncio.Event()

    async def acquire_and_note(*args: Any) -> Any:
        lease = await acquire(*args)
        acquired.set()
        return lease

    monkeypatch.setattr(rotation.pool, "acquire", acquire_and_note)
    turn = asyncio.create_task(rotation.serve(REQUEST, lambda lease: lease.key.label), name="turn")
    await acquired.wait()
    await stored.cancel([JOB], by="test")
    with pytest.raises(Revoked):
        await turn
    assert not provider.seen
