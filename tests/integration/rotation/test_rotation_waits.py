"""How a turn waits for its key, and events during the wait."""

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.integration.rotation.scripted_provider import (
    NOTHING_OUT,
    SECRETS,
    Make,
    leases_out,
    refused,
    rest,
    serve,
    until,
)
from worker.errors import Deferred
from worker.keypool import Lease, LeaseRequest, Line, NoLease
from worker.verdicts import ABANDONED


async def test_an_exhausted_pool_defers_until_a_key_is_free(make: Make) -> None:
    rotation, provider = make(refused(20_000), count=1)
    with pytest.raises(Deferred):
        await serve(rotation)
    with pytest.raises(Deferred) as caught:
        await serve(rotation)
    assert 19_000 <= caught.value.countdown_ms <= 21_000
    assert len(provider.seen) == 1


async def test_a_short_rest_is_waited_out_in_the_process(make: Make) -> None:
    # Long enough to last until a busy machine asks for the third time.
    rotation, provider = make(refused(1_000), refused(1_000), count=2)
    served = await serve(rotation)
    assert served.attempts == 3
    assert 0 < served.waited_ms < 4_000
    assert provider.keys_used[:2] == SECRETS[:2]


async def test_a_reset_ends_the_waits_in_the_process(make: Make, redis: Redis) -> None:
    rotation, provider = make(count=1, patience_ms=100_000)
    await rest(rotation, 60_000)
    waiting = [asyncio.create_task(serve(rotation), name="turn") for _ in range(2)]
    while rotation.waiting.demand.count(bulk=False) < len(waiting):  # noqa: ASYNC110 - no event says so
        await asyncio.sleep(0)
    await rotation.pool.reset(by="test")
    rotation.waiting.wake()
    async with asyncio.timeout(10):
        assert [served.attempts for served in await asyncio.gather(*waiting)] == [1, 1]
    assert len(provider.seen) == 2
    assert await leases_out(redis) == NOTHING_OUT


async def test_a_lease_whose_key_was_disabled_during_the_wait_is_not_used(
    make: Make, redis: Redis
) -> None:
    rotation, provider = make(count=1)
    await rest(rotation, 300)
    waiting = asyncio.create_task(serve(rotation), name="turn")
    await until(lambda: redis.zcard("{kw:groq}:leases"))
    await rotation.pool.disable(rotation.pool.keys[0].id, by="test")
    with pytest.raises(Deferred, match="disabled"):
        await waiting
    assert provider.seen == []
    assert await leases_out(redis) == NOTHING_OUT


async def test_a_job_whose_lease_is_lost_during_the_wait_keeps_its_waiting_time(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotation, provider = make(count=1)
    pool, waits_ms, lost = rotation.pool, list[int](), list[Lease]()
    acquire, confirm = pool.acquire, pool.confirm

    async def acquire_noting_waits(
        lease_request: LeaseRequest, line: Line | None = None
    ) -> Lease | NoLease:
        waits_ms.append(lease_request.waited_ms)
        return await acquire(lease_request, line)

    async def lose_first_lease(lease: Lease) -> Lease | None:
        if lost:
            return await confirm(lease)
        lost.append(lease)
        await pool.settle(lease, ABANDONED)
        return None

    await rest(rotation, 200)
    monkeypatch.setattr(pool, "acquire", acquire_noting_waits)
    monkeypatch.setattr(pool, "confirm", lose_first_lease)
    await serve(rotation, waited_ms=5_000)
    assert len(provider.seen) == len(lost) == 1
    assert waits_ms[0] == 5_000
    assert waits_ms[-1] >= 5_190, "the wait before the lost lease counts, too"


async def test_each_wait_of_a_turn_may_last_for_the_rest_of_the_longest_wait(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotation, _ = make(refused(), refused())
    waits: list[tuple[int, float | None]] = []
    acquire = rotation.waiting.acquire

    async def acquire_noting_waits(
        lease_request: LeaseRequest, *, longest_s: float | None, **options: Any
    ) -> Lease | NoLease:
        waits.append((lease_request.waited_ms, longest_s))
        return await acquire(lease_request, longest_s=longest_s, **options)

    monkeypatch.setattr(rotation.waiting, "acquire", acquire_noting_waits)
    served = await rotation.serve(
        LeaseRequest(waited_ms=70_000), lambda lease: lease.key.label, longest_s=30
    )
    assert served.attempts == 3
    for waited_ms, left_s in waits:
        assert left_s is not None
        assert waited_ms / 1_000 - 70 == pytest.approx(30 - left_s, abs=0.01)
        assert 20 < left_s <= 30


async def test_a_lease_is_confirmed_again_after_a_wait_for_its_slot(
    make: Make, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotation, provider = make(count=1)
    acquire = rotation.sending.acquire

    async def disable_and_acquire(key: str) -> Any:
        await rotation.pool.disable(rotation.pool.keys[0].id, by="test")
        return await acquire(key)

    monkeypatch.setattr(rotation.sending, "acquire", disable_and_acquire)
    monkeypatch.setattr("worker.rotation.turn._RECHECK_MS", -1)
    with pytest.raises(Deferred, match="disabled"):
        await serve(rotation)
    assert provider.seen == []
    assert await leases_out(redis) == NOTHING_OUT
