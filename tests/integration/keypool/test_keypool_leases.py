"""Leases: what they reserve, for whom, and until when."""

from dataclasses import replace

import pytest
from redis.asyncio import Redis

from tests.integration.keypool.conftest import ManualClock, make_key
from tests.integration.keypool.keypool_asking import (
    INVALID,
    OK,
    Make,
    ask,
    at_once,
    lease,
    no_lease,
    refused,
    rpm,
)
from worker.keypool import KeyPool, Lease
from worker.keypool.leases import NoLeaseReason
from worker.verdicts import ABANDONED, Dimension, Fate, ObservedLimit, Scope, Verdict


async def test_the_lease_of_a_dead_worker_comes_back(
    make_pool: Make, clock: ManualClock, redis: Redis
) -> None:
    pool = make_pool(1, lease_ms=30_000)
    dead = await lease(pool)
    clock.tick(30_001)
    assert (await lease(pool)).id != dead.id
    [entry] = [entry for entry in await pool.audit() if entry["event"] == "lease_expired"]
    assert (entry["reason"], entry["until_ms"]) == ("not settled in time", "0"), (
        "an expired lease blocks nothing"
    )
    assert await redis.hlen(pool.names.leased) == await redis.zcard(pool.names.leases) == 1


async def test_a_late_settle_changes_no_count_but_teaches(
    make_pool: Make, clock: ManualClock
) -> None:
    pool = make_pool(1, lease_ms=1_000)
    await pool.settle(await lease(pool), rpm(60, 60))
    late = await lease(pool)
    clock.tick(1_001)
    await pool.settle(await lease(pool), OK)
    flying = (await pool.snapshot()).keys[0].in_flight
    settled = await pool.settle(late, refused(5_000))
    assert settled.late
    assert settled.blocked
    assert (await pool.snapshot()).keys[0].in_flight == flying == 0


async def test_a_lease_of_a_key_whose_account_was_learned_meanwhile_is_not_used(
    make_pool: Make,
) -> None:
    pool = make_pool(1)
    first, second = await lease(pool), await lease(pool)
    taught = ObservedLimit(Dimension.RPM, 60, 0)
    await pool.settle(first, refused(0, Scope.ACCOUNT_MODEL, taught, account="org_a"))
    assert await pool.confirm(second) is None, "the lease took nothing from the bucket of org_a"
    assert (await no_lease(pool)).reason == "rpm"


async def test_a_lease_that_was_not_used_counts_as_no_call(make_pool: Make) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(60, 59))
    await pool.settle(await lease(pool), ABANDONED)
    [key] = (await pool.snapshot()).keys
    assert (key.calls, key.faults, key.in_flight, key.state) == (1, 0, 0, "ready")
    assert key.buckets[0].remaining == 59


async def test_settling_twice_gives_back_once(make_pool: Make) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(60, 60))
    held = await lease(pool)
    await pool.settle(held, INVALID)
    await pool.reset(by="test")
    after = (await pool.snapshot()).keys[0].buckets[0].remaining
    await pool.settle(held, INVALID)
    assert (await pool.snapshot()).keys[0].buckets[0].remaining == pytest.approx(after, abs=0.01)


# Whether the provider counts failed calls, if its file says so; otherwise the pool assumes that it
# counts them.
@pytest.mark.parametrize(("counted", "left"), [(None, 58), (True, 58), (False, 59)])
async def test_a_failure_costs_what_the_provider_counts(
    make_pool: Make,
    counted: bool | None,  # noqa: FBT001
    left: int,
) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(60))
    assert (await pool.snapshot()).keys[0].buckets[0].remaining == 60
    await pool.settle(await lease(pool), OK)
    failed = Verdict(Fate.RETRY, "server_error", definite=False, counted=counted, status=500)
    await pool.settle(await lease(pool), failed)
    assert (await pool.snapshot()).keys[0].buckets[0].remaining == left


async def test_a_job_that_is_bound_to_an_account_gets_its_keys_only(make_pool: Make) -> None:
    pool = make_pool(3)
    bound = pool.account_of(pool.keys[1])
    assert {(await lease(pool, account=bound)).account for _ in range(4)} == {bound}
    await pool.settle(await lease(pool, account=bound), refused(60_000))
    assert (await no_lease(pool, account=bound)).why is NoLeaseReason.RESTING
    assert isinstance(await ask(pool), Lease)


async def test_a_job_that_is_bound_to_an_account_costs_no_further_command(
    make_pool: Make, redis: Redis
) -> None:
    pool = make_pool(3)
    bound = (await lease(pool)).account
    await redis.config_resetstat()
    await lease(pool, account=bound)
    stats = await redis.info("commandstats")
    assert stats["cmdstat_hmget"]["calls"] == 3, (
        "one read each of the clock, its key and its account"
    )


async def test_a_job_whose_account_has_no_key_any_more_gets_none(make_pool: Make) -> None:
    pool = make_pool(2)
    bound = pool.account_of(pool.keys[0])
    pool.replace_keys(pool.keys[1:])
    assert (await no_lease(pool, account=bound)).why is NoLeaseReason.GONE


async def test_an_account_that_was_named_later_is_known_by_the_id_of_its_key(
    make_pool: Make, redis: Redis
) -> None:
    [key] = make_pool(1).keys
    pool = KeyPool(redis, "groq", [replace(key, account="team")])
    assert (await lease(pool, account=key.id)).account == "team"
    assert (await lease(pool, account="team")).key.id == key.id


async def test_a_call_that_was_never_made_gives_nothing_back_of_a_limit_learned_while_it_was_out(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(1)
    out = [await lease(pool) for _ in range(7)]
    await pool.settle(out[0], rpm(60, 20))
    await pool.settle(out[1], OK)
    await pool.settle(out[2], ABANDONED)
    await pool.settle(out[3], INVALID)
    assert await pool.confirm(out[4]) is None
    await pool.reset(by="ann")
    [bucket] = (await pool.snapshot()).keys[0].buckets
    assert bucket.remaining == 20, "the level that the provider stated did not count these calls"
    clock.tick(1_000)
    held = await lease(pool)
    await pool.settle(held, ABANDONED)
    [bucket] = (await pool.snapshot()).keys[0].buckets
    assert bucket.remaining == 21


async def test_reservations_of_a_process_that_died_expire_soon(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(1)
    refusal = refused(1, Scope.ACCOUNT_MODEL, ObservedLimit(Dimension.RPM, 600, 0))
    await pool.settle(await lease(pool), refusal)
    ahead = []
    while isinstance(outcome := await ask(pool, ahead_ms=2_000), Lease):
        ahead.append(outcome)
    assert len(ahead) >= 15
    lives = ahead[0]
    clock.tick(lives.wait_ms)
    assert await pool.confirm(lives) is not None
    clock.tick(4_000)
    at_once = 0
    while isinstance(await ask(pool), Lease):
        at_once += 1
    refilled = (4_000 + lives.wait_ms) // 100
    assert refilled - 5 <= at_once <= refilled, (
        "all calls except those of the living process and the margin"
    )
    assert await pool.confirm(ahead[1]) is None, "if its process only hangs, it asks again"
    assert not (await pool.settle(lives, OK)).late
    events = {entry["reason"] for entry in await pool.audit() if entry["event"] == "lease_expired"}
    assert events == {"not used in time"}


async def test_a_call_of_a_lease_that_expired_counts_unless_an_earlier_settle_may_have(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(1, lease_ms=1_000)
    late = await lease(pool)
    clock.tick(2_000)
    await lease(pool)  # looks for expired leases
    for again, calls in ((False, 1), (True, 1), (False, 2)):
        settled = await pool.settle(late, OK, **({"again": True} if again else {}))
        assert settled.late
        assert (await pool.snapshot()).keys[0].calls == calls


# How long a call may take, when after its start the pool looks for it, and whether it expired.
@pytest.mark.parametrize(
    ("ahead_ms", "after_ms", "expired"),
    [(0, 29_999, False), (0, 30_000, True), (2_000, 1_499, False), (2_000, 1_500, True)],
)
async def test_a_lease_expires_after_its_time_and_one_that_waits_a_while_after_its_start(
    make_pool: Make,
    clock: ManualClock,
    ahead_ms: int,
    after_ms: int,
    *,
    expired: bool,
) -> None:
    pool = make_pool(1, lease_ms=30_000)
    if ahead_ms:
        await pool.settle(await lease(pool), refused(1_000))
    held = await lease(pool, ahead_ms=ahead_ms, by="job-1")
    clock.tick(held.wait_ms + after_ms)
    await ask(pool)
    [*expiries] = [entry for entry in await pool.audit() if entry["event"] == "lease_expired"]
    assert [entry["by"] for entry in expiries] == ["job-1"] * expired
    assert (await pool.settle(held, OK)).late is expired


async def test_a_lease_that_was_confirmed_lasts_as_long_as_any_from_then_on(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(1, lease_ms=30_000)
    await pool.settle(await lease(pool), refused(1_000))
    held = await lease(pool, ahead_ms=2_000)
    clock.tick(held.wait_ms + 500)
    assert await pool.confirm(held) is not None
    clock.tick(29_999)
    await ask(pool)
    assert not (await pool.settle(held, OK)).late


async def test_sixteen_leases_that_expired_are_ended_by_a_call(
    make_pool: Make,
    clock: ManualClock,
    redis: Redis,
) -> None:
    pool = make_pool(1, lease_ms=30_000)
    for _ in range(20):
        await lease(pool)
    clock.tick(30_000)
    for left in (20 - 16 + 1, 2):
        await lease(pool)
        assert await redis.zcard(pool.names.leases) == left


async def test_unused_state_expires_after_a_week(make_pool: Make, redis: Redis) -> None:
    pool, week_ms = make_pool(1), 7 * 86_400_000
    held = await lease(pool, model="m")
    pair = pool.names.account_model(held.account, "m")
    assert await redis.pttl(pool.names.inflight) == pytest.approx(week_ms, abs=60_000)
    assert await redis.pttl(pair) == pytest.approx(week_ms, abs=60_000)
    await redis.pexpire(pair, 1_000_000)
    await pool.settle(held, OK)
    assert await redis.pttl(pair) == pytest.approx(week_ms, abs=60_000), (
        "a success postpones the expiry"
    )


# How long after a success the next one is noted; a failure may have come in that time.
@pytest.mark.parametrize(("apart_ms", "noted"), [(249, False), (250, True)])
async def test_a_success_is_noted_four_times_a_second_at_most(
    make_pool: Make,
    clock: ManualClock,
    redis: Redis,
    apart_ms: int,
    *,
    noted: bool,
) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool, model="m"), OK)
    clock.tick(apart_ms)
    fails, passes = await lease(pool, model="m"), await lease(pool, model="m")
    await pool.settle(passes, OK)
    failed = Verdict(Fate.RETRY, "server_error", definite=False, status=500)
    assert (await pool.settle(fails, failed)).passing is noted


async def test_the_models_that_were_called_last_are_shown(
    make_pool: Make,
    clock: ManualClock,
    redis: Redis,
) -> None:
    pool = make_pool(1)
    for number in range(66):
        clock.tick(10)
        await pool.settle(await lease(pool, model=f"m{number}"), OK)
    assert await redis.zrange(pool.names.models, 0, -1) == [f"m{n}" for n in range(2, 66)]


async def test_the_defaults_of_a_pool(redis: Redis, clock: ManualClock) -> None:
    pool = KeyPool(redis, "groq", [make_key(0)], now_ms=clock)
    assert pool.names.root() == "{kw:groq}"
    held = await at_once(pool)
    assert len(held) == 4
    clock.tick(299_999)
    assert not (await pool.settle(held.pop(), OK)).late
    await ask(pool)
    clock.tick(1)
    await ask(pool)
    assert (await pool.settle(held.pop(), OK)).late
    clock.tick(250)
    await pool.settle(await lease(pool), refused())
    assert (await no_lease(pool)).first_in_ms == 60_000
