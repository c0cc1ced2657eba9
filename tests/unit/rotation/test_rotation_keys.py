"""Which keys a turn goes through."""

import asyncio
import logging

import pytest
from redis.asyncio import Redis
from rotation_scripted import (
    DEAD,
    NOT_FOUND,
    NOT_ITS_DOMAIN,
    NOTHING_OUT,
    SECRETS,
    UNFIT,
    Make,
    leases_out,
    refused,
    serve,
    until,
)

from worker.errors import Deferred
from worker.keypool import NO_TICKET, Lease, Unavailable, Want
from worker.rotation import Served
from worker.verdicts import Fate, Reply, Verdict


async def test_a_good_answer_comes_back_with_what_it_took(make: Make, redis: Redis) -> None:
    rotation, provider = make()
    served = await serve(rotation, model="m", tokens=10)
    assert served == Served({"text": "hello"}, "gsk_abc123...", attempts=1, waited_ms=0)
    assert provider.seen == [(SECRETS[0], "for gsk_abc123...")]
    assert await leases_out(redis) == NOTHING_OUT


async def test_an_answer_without_a_value_is_an_empty_one(make: Make) -> None:
    rotation, _ = make(Reply(Verdict(Fate.DONE, "ok", status=200)))
    assert (await serve(rotation)).value == {}


async def test_the_log_lines_have_their_exact_shape(make: Make, caplog: pytest.LogCaptureFixture) -> None:
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


async def test_a_key_that_was_out_already_is_not_logged_again(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    first, _ = make(DEAD, count=1)
    second, provider = make("hang", count=1)
    slow = asyncio.create_task(serve(second), name="turn")
    await provider.called.wait()
    with caplog.at_level(logging.WARNING, logger="worker.keys"):
        with pytest.raises(Deferred):
            await serve(first)
        slow.cancel()
        await asyncio.wait([slow])
        taken = await first.pool.acquire(Want())
    assert isinstance(taken, Unavailable)
    assert caplog.text.count("🚨") == 1


# What the script answers; which keys are called, in order.
@pytest.mark.parametrize(
    ("script", "used"),
    [
        ([DEAD], [0, 1]),  # a dead key: the next at once
        ([DEAD, DEAD], [0, 1, 2]),  # two of them
        ([refused()], [0, 1]),  # a limit: the next at once
        ([refused(None), DEAD], [0, 1, 2]),  # a limit that says nothing
        ([UNFIT], [0, 1]),  # off for this model only
        ([NOT_FOUND], [0, 1]),  # one other account may know the model
        ([NOT_ITS_DOMAIN] * 2, [0, 1, 2]),  # the team of a domain may be the last one asked
    ],
)
async def test_a_key_at_fault_means_the_next_key_at_once(
    make: Make, redis: Redis, script: list[Reply], used: list[int]
) -> None:
    rotation, provider = make(*script)
    served = await serve(rotation, model="m", topic="m")
    assert provider.keys_used == [SECRETS[n] for n in used]
    assert served.attempts == len(used)
    assert await leases_out(redis) == NOTHING_OUT


async def test_a_dead_key_is_not_called_by_later_jobs(make: Make) -> None:
    rotation, provider = make(DEAD)
    for _ in range(6):
        await serve(rotation)
    assert provider.keys_used.count(SECRETS[0]) == 1
    assert len(provider.keys_used) == 7


async def test_when_the_last_key_is_refused_in_the_same_turn_the_job_is_deferred_not_faulted(
    make: Make, redis: Redis
) -> None:
    rotation, provider = make(refused(40_000), refused(30_000), refused(50_000))
    with pytest.raises(Deferred) as caught:
        await serve(rotation, max_wait_ms=100)
    assert 29_000 <= caught.value.countdown_ms <= 31_500
    assert caught.value.reason == "rate_limit"
    assert len(provider.seen) == 3
    assert await leases_out(redis) == NOTHING_OUT


async def test_when_the_last_key_dies_in_the_same_turn_the_job_waits_for_a_person(make: Make) -> None:
    rotation, provider = make(DEAD, DEAD, DEAD)
    with pytest.raises(Deferred) as caught:
        await serve(rotation, max_wait_ms=100)
    assert caught.value.countdown_ms == 60_000
    assert caught.value.reason == "every groq key is disabled (invalid_key)"
    assert len(provider.seen) == 3


async def test_keys_that_are_free_again_at_once_do_not_make_the_turn_endless(make: Make, redis: Redis) -> None:
    rotation, provider = make(*[refused(0)] * 50)
    with pytest.raises(Deferred) as caught:
        await serve(rotation, max_wait_ms=100)
    assert len(provider.seen) == 3
    assert 0 < caught.value.countdown_ms <= 5_000
    assert await leases_out(redis) == NOTHING_OUT


async def test_an_exhausted_pool_defers_until_a_key_is_free(make: Make) -> None:
    rotation, provider = make(refused(20_000), count=1)
    with pytest.raises(Deferred):
        await serve(rotation)
    with pytest.raises(Deferred) as caught:
        await serve(rotation, max_wait_ms=5_000)
    assert 18_500 <= caught.value.countdown_ms <= 21_500
    assert len(provider.seen) == 1


async def test_a_short_rest_is_waited_out_in_the_process(make: Make) -> None:
    rotation, provider = make(refused(150), count=1)
    with pytest.raises(Deferred):
        await serve(rotation)
    served = await serve(rotation, max_wait_ms=5_000)
    assert len(provider.seen) == 2
    assert served.attempts == 1
    assert 0 < served.waited_ms < 4_000


async def test_a_reset_ends_the_waits_in_the_process(make: Make, redis: Redis) -> None:
    rotation, provider = make(refused(60_000), count=1)
    with pytest.raises(Deferred):
        await serve(rotation)
    waiting = [asyncio.create_task(serve(rotation, max_wait_ms=100_000), name="turn") for _ in range(2)]
    await until(lambda: _leased(redis, 2))
    await rotation.pool.reset(by="test")
    rotation.pool.wake()
    async with asyncio.timeout(10):
        assert [served.attempts for served in await asyncio.gather(*waiting)] == [1, 1]
    assert len(provider.seen) == 3
    assert await leases_out(redis) == NOTHING_OUT


async def _leased(redis: Redis, count: int) -> bool:
    return bool(await redis.zcard("{kw:groq}:leases") == count)


async def test_a_ticket_is_brought_once_in_a_turn_and_a_promise_made_once(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rotation, _ = make(refused(20_000), refused(30_000), count=2)
    brought = []
    acquire = rotation.pool.acquire

    async def noting(want: Want) -> Lease | Unavailable:
        got = await acquire(want)
        brought.append((want.ticket, getattr(got, "ticket", "lease")))
        return got

    monkeypatch.setattr(rotation.pool, "acquire", noting)
    with pytest.raises(Deferred) as caught:
        await serve(rotation, ticket="p1 nobody")
    (first, _), (second, _), (third, promised), (fourth, told) = brought
    assert (first, second, third) == ("p1 nobody", NO_TICKET, NO_TICKET)
    assert fourth == promised, "what was promised without the keys that were at fault is taken back"
    assert caught.value.ticket == told


async def test_a_lease_whose_key_died_during_the_wait_is_not_used(make: Make, redis: Redis) -> None:
    rotation, provider = make(refused(300), count=1)
    with pytest.raises(Deferred):
        await serve(rotation)
    waiting = asyncio.create_task(serve(rotation, max_wait_ms=5_000), name="turn")
    await until(lambda: redis.zcard("{kw:groq}:leases"))
    await rotation.pool.disable(rotation.pool.keys[0].id, by="test")
    with pytest.raises(Deferred, match="disabled"):
        await waiting
    assert len(provider.seen) == 1
    assert await leases_out(redis) == NOTHING_OUT


async def test_no_key_at_all_is_a_deferral(make: Make) -> None:
    rotation, _ = make(count=0)
    with pytest.raises(Deferred) as caught:
        await serve(rotation)
    assert caught.value.reason == "no groq key is configured for this job"
    assert caught.value.countdown_ms == 60_000
