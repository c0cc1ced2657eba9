"""Redis is down while a job waits for its key, or when its call is settled."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError

from sandbox.redis import EmbeddedRedis
from tests.integration.rotation.scripted_provider import (
    DEAD,
    FAULTY,
    NOTHING_OUT,
    Make,
    ScriptedProvider,
    keys,
    leases_out,
    serve,
)
from worker.aio import stacks
from worker.aio.job import Job
from worker.errors import Deferred
from worker.keypool import KeyPool, Lease, LeaseRequest
from worker.redis import retry
from worker.rotation import turn as turn_module
from worker.rotation.call_hooks import NoHooks
from worker.rotation.lease_settling import LeaseSettling
from worker.rotation.rotation import Rotation
from worker.verdicts import ABANDONED, Dimension, Fate, ObservedLimit, Reply, Scope, Verdict


async def test_a_job_waits_for_a_redis_that_comes_back(
    own_server: EmbeddedRedis, own_redis: Redis
) -> None:
    provider = ScriptedProvider()
    rotation = Rotation(KeyPool(own_redis, "groq", keys()), provider)
    own_server.stop()
    waiting = asyncio.create_task(serve(rotation), name="turn")
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await asyncio.to_thread(own_server.start)
    assert (await waiting).attempts == 1


async def test_a_job_is_deferred_while_redis_stays_down(
    own_server: EmbeddedRedis, own_redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "JOB", replace(retry.JOB, within_s=0.2))
    rotation = Rotation(KeyPool(own_redis, "groq", keys()), ScriptedProvider())
    own_server.stop()
    with pytest.raises(
        Deferred, match=r"^no key is free: Redis does not answer \(ConnectionError\); "
    ) as caught:
        await serve(rotation)
    assert 0 < caught.value.countdown_ms <= 1_500


async def test_an_answer_is_returned_although_redis_is_down_when_its_call_is_settled(
    own_server: EmbeddedRedis, own_redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    class Stopping(ScriptedProvider):
        async def call(self, secret: SecretStr, request: str, *, sent: Any = None) -> Reply:  # noqa: ARG002
            await asyncio.to_thread(own_server.stop)
            return await super().call(secret, request)

    rotation = Rotation(KeyPool(own_redis, "groq", keys()), Stopping())
    served = await serve(rotation)
    assert served.value == {"text": "hello"}
    assert "cannot settle a lease" in caplog.text


async def test_many_calls_that_cannot_be_settled_log_one_line(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rotation, _ = make()

    async def deny(*_: Any, **__: Any) -> None:
        raise NoPermissionError("NOPERM this user has no permissions")

    monkeypatch.setattr(rotation.pool, "settle", deny)
    settling = LeaseSettling(rotation.pool, NoHooks(lambda _: ""))
    lease = await rotation.pool.acquire(LeaseRequest())
    assert isinstance(lease, Lease)
    for _ in range(20):
        await settling.settle(lease, ABANDONED)
    assert caplog.messages == [
        "cannot settle a lease (NOPERM this user has no permissions); it expires on its own"
    ]


async def test_a_lease_is_settled_once_redis_takes_writes_although_its_job_has_ended(
    own_redis: Redis,
) -> None:
    class Refusing(ScriptedProvider):
        async def call(self, secret: SecretStr, request: str, *, sent: Any = None) -> Reply:
            await own_redis.config_set("min-replicas-to-write", 1)
            return await super().call(secret, request, sent=sent)

    limits = (ObservedLimit(Dimension.TPM, 6_000, remaining=0),)
    answer = Reply(
        Verdict(Fate.DONE, "ok", status=200, tokens=10, limits=limits), {"text": "hello"}
    )
    rotation = Rotation(KeyPool(own_redis, "groq", keys(1)), Refusing(answer))
    assert (await serve(rotation, tokens=5_000)).value == {"text": "hello"}
    assert await leases_out(own_redis) != NOTHING_OUT
    await own_redis.config_set("min-replicas-to-write", 0)
    async with asyncio.timeout(30):
        while await leases_out(own_redis) != NOTHING_OUT:  # noqa: ASYNC110 - no event says so
            await asyncio.sleep(0.01)
    # The answer's `remaining` is outdated now: the account does not count as empty.
    lease = await rotation.pool.acquire(LeaseRequest(tokens=5_000))
    assert isinstance(lease, Lease)
    assert lease.wait_ms == 0


async def test_no_time_limit_ends_a_job_while_its_call_is_settled(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotation, _ = make()
    host: Any = SimpleNamespace()
    job, guarded = Job(host, print, (), host, in_thread=False), list[bool]()
    lease = await rotation.pool.acquire(LeaseRequest())
    assert isinstance(lease, Lease)

    async def settle_noting_guard(*_: Any, **__: Any) -> None:
        guarded.append(job.redis_waits > 0)

    monkeypatch.setattr(rotation.pool, "settle", settle_noting_guard)
    settling = LeaseSettling(rotation.pool, NoHooks(lambda _: ""))
    for settle in (
        settling.settle_shielded(lease, ABANDONED),
        settling.conclude_shielded(lease, Reply(turn_module.INTERRUPTED)),
    ):
        await asyncio.create_task(settle, context=stacks.context_of(job))
    assert guarded == [True, True]
    assert not job.redis_waits


@pytest.mark.parametrize("retry", [True, False])
async def test_a_call_counts_once_although_redis_has_settled_it_and_its_reply_was_lost(
    make: Make, monkeypatch: pytest.MonkeyPatch, *, retry: bool
) -> None:
    rotation, _ = make(count=1)
    settle, replies = rotation.pool.settle, asyncio.Queue[Any]()

    async def settle_losing_first_reply(*args: Any, **options: Any) -> Any:
        settled = await settle(*args, **options)
        replies.put_nowait(settled)
        if replies.qsize() == 1:
            raise RedisConnectionError("the reply was lost")
        return settled

    monkeypatch.setattr(rotation.pool, "settle", settle_losing_first_reply)
    settling = LeaseSettling(rotation.pool, NoHooks(lambda _: ""))
    lease = await rotation.pool.acquire(LeaseRequest())
    assert isinstance(lease, Lease)
    failed = replace(FAULTY.verdict, scope=Scope.HOST)
    # Or the call is settled again in the background.
    await settling.settle(lease, failed, retry=retry)
    async with asyncio.timeout(10):
        first, second = await replies.get(), await replies.get()
    assert (first.late, second.late) == (False, True)
    [key] = (await rotation.pool.snapshot()).keys
    assert (key.calls, key.faults) == (1, 1)


async def test_a_refusal_reaches_the_pool_although_redis_is_gone_for_a_moment(
    own_server: EmbeddedRedis, own_redis: Redis
) -> None:
    class Blinking(ScriptedProvider):
        back: asyncio.Task[None] | None = None

        async def call(self, secret: SecretStr, request: str, *, sent: Any = None) -> Reply:
            if self.back is None:
                await asyncio.to_thread(own_server.stop)
                self.back = asyncio.create_task(asyncio.to_thread(own_server.start))
            return await super().call(secret, request, sent=sent)

    rotation = Rotation(KeyPool(own_redis, "groq", keys()), Blinking(DEAD))
    served = await serve(rotation)
    assert served.attempts == 2
    assert (await rotation.pool.snapshot()).failed == 1


async def test_a_failed_key_is_not_logged_while_redis_is_down(
    own_server: EmbeddedRedis, own_redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    class Vanishing(KeyPool):
        async def snapshot(self) -> Any:
            await asyncio.to_thread(own_server.stop)
            try:
                return await super().snapshot()
            finally:
                await asyncio.to_thread(own_server.start)

    rotation = Rotation(Vanishing(own_redis, "groq", keys()), ScriptedProvider(DEAD))
    assert (await serve(rotation)).attempts == 2
    assert "🚨" not in caplog.text
