"""Jobs that are stopped, and errors in our code."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.integration.rotation.scripted_provider import (
    DEAD,
    INVALID,
    NOTHING_OUT,
    OK,
    SECRETS,
    Make,
    leases_out,
    rest,
    serve,
)
from worker.aio.errors import Revoked
from worker.errors import RequestRejected, TransientError
from worker.keypool import Lease, LeaseRequest
from worker.rotation import turn as turn_module
from worker.rotation.limiter import SLOTS


async def test_a_turn_with_too_many_calls_is_a_transient_error(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn_module, "_MOST_CALLS", 2)
    rotation, _ = make(DEAD, DEAD, DEAD)
    with pytest.raises(TransientError, match="reasonable number of tries"):
        await serve(rotation)


async def test_a_job_cancelled_while_it_waits_gives_its_lease_back(
    make: Make, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotation, provider = make(count=1)
    await rest(rotation, 2_000)
    acquire, taken = rotation.pool.acquire, asyncio.Event()

    async def acquire_and_note(*args: Any) -> Any:
        try:
            return await acquire(*args)
        finally:
            taken.set()

    monkeypatch.setattr(rotation.pool, "acquire", acquire_and_note)
    waiting = asyncio.create_task(serve(rotation), name="turn")
    await taken.wait()
    await asyncio.sleep(0)
    assert await redis.zcard("{kw:groq}:leases") == 1
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await leases_out(redis) == NOTHING_OUT
    assert provider.seen == []


async def test_a_job_that_is_revoked_before_its_lease_starts_ends_at_once(
    make: Make, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotation, provider = make(count=1)
    await rest(rotation, 2_000)
    started = asyncio.Event()
    await_start = rotation.waiting.await_start

    async def await_start_for_an_hour(lease: Lease) -> None:
        started.set()
        await await_start(replace(lease, wait_ms=3_600_000))

    monkeypatch.setattr(rotation.waiting, "await_start", await_start_for_an_hour)
    waiting = asyncio.create_task(
        rotation.serve(LeaseRequest(by="job-1"), lambda _: ""), name="turn"
    )
    await started.wait()
    rotation.waiting.cancel({"job-2"})
    assert [start.done() for start in rotation.waiting._starting] == [False]
    rotation.waiting.cancel({"job-1"})
    with pytest.raises(Revoked):
        await waiting
    assert await leases_out(redis) == NOTHING_OUT
    assert provider.seen == []


async def test_a_job_cancelled_while_its_answer_is_settled_still_disables_the_key(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotation, provider = make(DEAD)
    settle, reached = rotation.pool.settle, asyncio.Event()

    async def hang_at_first(*args: Any, **options: Any) -> Any:
        if not reached.is_set():
            reached.set()
            await asyncio.Event().wait()
        return await settle(*args, **options)

    monkeypatch.setattr(rotation.pool, "settle", hang_at_first)
    calling = asyncio.create_task(serve(rotation), name="turn")
    await reached.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    view = await rotation.pool.snapshot()
    assert [key.state for key in view.keys].count("disabled") == 1
    assert provider.keys_used == [SECRETS[0]]


async def test_a_bug_in_the_provider_settles_the_lease_and_is_raised(
    make: Make, redis: Redis
) -> None:
    rotation, _ = make(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        await serve(rotation)
    assert await leases_out(redis) == NOTHING_OUT


async def test_a_request_that_cannot_be_built_settles_the_lease(make: Make, redis: Redis) -> None:
    rotation, provider = make()

    def build(lease: Lease) -> str:
        raise ValueError(lease.key.label)

    with pytest.raises(ValueError, match="gsk_abc123"):
        await rotation.serve(LeaseRequest(), build)
    assert not provider.seen
    assert await leases_out(redis) == NOTHING_OUT


@pytest.mark.parametrize("end", [OK, INVALID, ZeroDivisionError("a bug")])
async def test_a_call_frees_its_slot_however_it_ends(make: Make, end: Any) -> None:
    rotation, provider = make(*[end] * SLOTS)
    slot = await rotation.sending.acquire("")  # so that slots are counted all the time
    async with asyncio.timeout(10):
        for _ in range(SLOTS):  # one more than the free slots
            with suppress(RequestRejected, ZeroDivisionError):
                await serve(rotation)
    assert len(provider.seen) == SLOTS
    slot.release()


async def test_a_job_that_is_cancelled_just_before_its_call_keeps_no_slot(
    make: Make, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotation, provider = make(count=1)
    slot = await rotation.sending.acquire("")
    confirming, confirmed = asyncio.Event(), asyncio.Event()

    async def hang(_: Lease) -> None:
        confirming.set()
        await confirmed.wait()

    monkeypatch.setattr(rotation.pool, "confirm", hang)
    monkeypatch.setattr(turn_module, "_RECHECK_MS", -1)  # as if the call had waited for its slot
    async with asyncio.timeout(10):
        for _ in range(SLOTS):
            confirming.clear()
            calling = asyncio.create_task(serve(rotation), name="turn")
            await confirming.wait()
            calling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await calling
    assert await leases_out(redis) == NOTHING_OUT
    assert not provider.seen
    slot.release()
