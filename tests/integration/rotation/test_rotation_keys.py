"""Which keys a turn calls, in which order, and how it waits for them."""

import asyncio
import logging
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.integration.rotation.scripted_provider import (
    DEAD,
    NOT_FOUND,
    NOT_HAD,
    NOT_ITS_DOMAIN,
    NOTHING_OUT,
    SECRETS,
    UNFIT,
    Make,
    leases_out,
    refused,
    rest,
    serve,
    until,
)
from worker.errors import Deferred, RequestRejected, TransientError
from worker.keypool import Lease, LeaseRequest, Line, NoLease
from worker.rotation.served import Served
from worker.verdicts import ABANDONED, Fate, Reply, Scope, Verdict


async def test_an_answer_is_returned_with_its_key_attempts_and_wait(
    make: Make, redis: Redis
) -> None:
    rotation, provider = make()
    served = await serve(rotation, model="m", tokens=10)
    assert served == Served(
        {"text": "hello"}, "gsk_abc123...", attempts=1, waited_ms=served.waited_ms, model="m"
    )
    assert 0 <= served.waited_ms < 1_000
    assert provider.seen == [(SECRETS[0], "for gsk_abc123...")]
    assert await leases_out(redis) == NOTHING_OUT


async def test_an_answer_without_a_value_gets_an_empty_one(make: Make) -> None:
    rotation, _ = make(Reply(Verdict(Fate.DONE, "ok", status=200)))
    assert (await serve(rotation)).value == {}


async def test_the_log_lines_have_their_exact_shape(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    rotation, _ = make(DEAD, refused())
    with caplog.at_level(logging.INFO, logger="worker.keys"):
        await serve(rotation)
    assert [record.getMessage() for record in caplog.records if record.name == "worker.keys"] == [
        "🤖 Using Groq key: gsk_abc123... (attempt 1/3)",
        "🚨 API key marked as failed: gsk_abc123... (1/3 failed)",
        "🤖 Using Groq key: gsk_def456... (attempt 2/3)",
        "🚨 API key marked as failed: gsk_def456... (2/3 failed)",
        "🤖 Using Groq key: gsk_ghi789... (attempt 3/3)",
    ]


async def test_a_key_that_was_disabled_already_is_not_logged_again(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    first, _ = make(DEAD, count=1)
    second, provider = make("hang", count=1)
    slow = asyncio.create_task(serve(second), name="turn")
    await provider.called.wait()
    with caplog.at_level(logging.WARNING, logger="worker.keys"):
        with pytest.raises(Deferred):
            await serve(first)
        slow.cancel()
        await asyncio.wait([slow])
        no_lease = await first.pool.acquire(LeaseRequest())
    assert isinstance(no_lease, NoLease)
    assert caplog.text.count("🚨") == 1


# The replies of the script, and the keys that are called, in order.
@pytest.mark.parametrize(
    ("script", "used"),
    [
        ([DEAD], [0, 1]),  # a disabled key: the next at once
        ([DEAD, DEAD], [0, 1, 2]),  # two of them
        ([refused()], [0, 1]),  # a limit: the next at once
        ([refused(None), DEAD], [0, 1, 2]),  # a limit without a wait
        ([UNFIT], [0, 1]),  # off for this model only
        ([NOT_FOUND], [0, 1]),  # another account may know the model
        ([NOT_FOUND] * 2, [0, 1, 2]),  # or the last one
        ([NOT_ITS_DOMAIN] * 2, [0, 1, 2]),  # the team of a domain may be the last one asked
    ],
)
async def test_the_next_key_is_called_at_once_after_a_refusal(
    make: Make, redis: Redis, script: list[Reply], used: list[int]
) -> None:
    rotation, provider = make(*script)
    served = await serve(rotation, model="m", resource="m")
    assert provider.keys_used == [SECRETS[n] for n in used]
    assert served.attempts == len(used)
    assert await leases_out(redis) == NOTHING_OUT


async def test_a_disabled_key_is_not_called_by_later_jobs(make: Make) -> None:
    rotation, provider = make(DEAD)
    for _ in range(6):
        await serve(rotation)
    assert provider.keys_used.count(SECRETS[0]) == 1
    assert len(provider.keys_used) == 7


async def test_a_job_whose_keys_are_all_limited_in_one_turn_is_deferred(
    make: Make, redis: Redis
) -> None:
    rotation, provider = make(refused(40_000), refused(30_000), refused(50_000))
    with pytest.raises(Deferred) as caught:
        await serve(rotation)
    assert 29_000 <= caught.value.countdown_ms <= 31_000
    assert caught.value.reason == "rate_limit"
    assert len(provider.seen) == 3
    assert await leases_out(redis) == NOTHING_OUT


async def test_a_job_whose_keys_are_all_disabled_in_one_turn_is_deferred(
    make: Make,
) -> None:
    rotation, provider = make(DEAD, DEAD, DEAD)
    with pytest.raises(Deferred) as caught:
        await serve(rotation)
    assert caught.value.countdown_ms == 60_000
    assert caught.value.reason == "every groq key is disabled (invalid_key)"
    assert len(provider.seen) == 3


async def test_keys_that_are_free_again_at_once_do_not_make_the_turn_endless(
    make: Make, redis: Redis
) -> None:
    rotation, provider = make(*[refused(0)] * 50)
    with pytest.raises(Deferred) as caught:
        await serve(rotation)
    assert provider.keys_used == SECRETS
    assert caught.value.reason == "every key was refused a moment ago"
    assert 1_000 <= caught.value.countdown_ms <= 2_000
    assert await leases_out(redis) == NOTHING_OUT


async def test_an_exhausted_pool_defers_until_a_key_is_free(make: Make) -> None:
    rotation, provider = make(refused(20_000), count=1)
    with pytest.raises(Deferred):
        await serve(rotation)
    with pytest.raises(Deferred) as caught:
        await serve(rotation)
    assert 19_000 <= caught.value.countdown_ms <= 21_000
    assert len(provider.seen) == 1


async def test_a_short_rest_is_waited_out_in_the_process(make: Make) -> None:
    # Long enough to be still resting when a busy machine asks for the third time.
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
    assert waits_ms[-1] >= 5_190, "it waited before it lost the lease, too"


async def test_a_job_without_any_key_is_deferred(make: Make) -> None:
    rotation, _ = make(count=0)
    with pytest.raises(Deferred) as caught:
        await serve(rotation)
    assert caught.value.reason == "no groq key is configured for this job"
    assert caught.value.countdown_ms == 60_000


OVERLOADED = Reply(
    Verdict(
        Fate.RETRY, "over_capacity", scope=Scope.MODEL, definite=False, counted=False, status=503
    )
)


# The replies for the first model, and how many calls are made until the second model serves.
@pytest.mark.parametrize(
    ("script", "accounts", "attempts"),
    [
        ([OVERLOADED], ("one", "two", "three"), 2),
        ([NOT_HAD], ("one", "one", "one"), 2),
        ([NOT_HAD] * 3, ("one", "two", "three"), 4),
        # The account may have the other model, although it rejected the first without a reason.
        ([NOT_FOUND], ("one", "one", "one"), 2),
        ([NOT_FOUND] * 3, ("one", "two", "three"), 4),
        ([refused()], ("one", "one", "one"), 2),
    ],
)
async def test_the_next_model_serves_in_the_same_turn(
    make: Make, script: list[Reply], accounts: tuple[str, ...], attempts: int
) -> None:
    rotation, provider = make(*script, accounts=accounts)
    lease_request = LeaseRequest(model="a", resource="a", fallbacks=(("b", "b"),))
    served = await rotation.serve(lease_request, lambda lease: lease.request.resource)
    assert served.attempts == attempts
    assert [model for _, model in provider.seen] == ["a"] * (attempts - 1) + ["b"]


async def test_a_job_whose_models_are_all_overloaded_ends_with_a_transient_error(
    make: Make,
) -> None:
    rotation, provider = make(OVERLOADED, OVERLOADED)
    with pytest.raises(TransientError):
        await serve(rotation, model="a", resource="a", fallbacks=(("b", "b"),))
    assert len(provider.seen) == 2


async def test_a_job_that_no_account_takes_with_any_model_ends_with_the_providers_words(
    make: Make,
) -> None:
    rotation, provider = make(*[NOT_FOUND] * 6)
    with pytest.raises(RequestRejected, match=r"^model_not_found: there is no such model$"):
        await serve(rotation, model="a", resource="a", fallbacks=(("b", "b"),))
    assert len(provider.seen) == 6


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
