"""The effect of an answer when a call is settled: blocks, their scopes, and their reasons."""

import struct
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from tests.integration.keypool.conftest import ManualClock
from tests.integration.keypool.keypool_asking import (
    INVALID,
    OK,
    Make,
    ask,
    lease,
    limited,
    no_lease,
    refused,
    remaining,
)
from worker.keypool import Lease, Settled
from worker.verdicts import Dimension, Effect, Fate, ObservedLimit, Scope, Verdict

NOT_HAD = Verdict(
    Fate.OTHER_ACCOUNT,
    "model_not_found",
    effect=Effect.UNFIT,
    scope=Scope.ACCOUNT_MODEL,
    cooldown_ms=3_600_000,
    status=404,
)


# How long ago a key last served (None: never), and whether a single job is why it is blocked.
@pytest.mark.parametrize(("served_ms", "alone"), [(600_000, True), (600_001, False), (None, False)])
async def test_a_key_that_served_within_ten_minutes_is_blocked_by_one_job_alone(
    make_pool: Make, clock: ManualClock, served_ms: int | None, *, alone: bool
) -> None:
    pool = make_pool(1)
    if served_ms is not None:
        await pool.settle(await lease(pool, by="before"), OK)
        clock.tick(served_ms)
    held, others = await lease(pool, by="job-1"), await lease(pool, by="job-2")
    assert (await pool.settle(held, INVALID)).alone is alone
    again = await pool.settle(others, INVALID)
    assert (again.blocked, again.newly, again.alone) == (True, False, False)


async def test_a_success_blocks_nothing(make_pool: Make) -> None:
    pool = make_pool(1)
    for _ in range(2):
        settled = await pool.settle(await lease(pool), OK)
        assert settled == Settled(late=False, blocked=False, newly=False)


async def test_a_call_that_reserved_no_tokens_takes_those_that_the_provider_counted(
    make_pool: Make,
) -> None:
    pool, limit = make_pool(1), ObservedLimit(Dimension.TPM, 6_000)
    await pool.settle(await lease(pool), replace(OK, limits=(limit,)))
    await pool.settle(await lease(pool), replace(OK, tokens=500))
    assert await remaining(pool) == 5_500


async def test_an_unfit_account_is_recorded_once_and_a_rest_again_when_it_grows(
    make_pool: Make, redis: Redis
) -> None:
    pool = make_pool(1)
    held = [await lease(pool, model="m") for _ in range(5)]
    for held_lease, rest_ms in zip(held[:2], (1_000, 2_000), strict=True):
        await pool.settle(held_lease, refused(rest_ms))
    await pool.settle(held[2], refused(2_000))
    for held_lease in held[3:]:
        await pool.settle(
            held_lease, replace(NOT_HAD, cooldown_ms=NOT_HAD.cooldown_ms + len(held_lease.id))
        )
    events = [entry["event"] for entry in await pool.audit()]
    assert events == ["unfit", "cooled", "cooled"]
    pair = pool.names.account_model(held[0].account, "m")
    assert await redis.exists(pair) == 0, (
        "no state is kept for a model that the account does not have"
    )


async def test_the_next_call_deletes_blocks_that_have_ended(
    make_pool: Make, redis: Redis, clock: ManualClock
) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), refused(2_000))
    clock.tick(1_999)
    await no_lease(pool)
    assert await redis.hlen(pool.names.blocks) == 1
    clock.tick(1)
    await lease(pool)
    assert await redis.hlen(pool.names.blocks) == 0


def packed(until_ms: float) -> bytes:
    """A block in the format of the scripts."""
    return b"\x81\xa8until_ms\xcb" + struct.pack(">d", until_ms)


# The number of blocks of unknown models, beside one that lasts and one that has ended.
@pytest.mark.parametrize(("blocks", "stay"), [(997, 1_000), (998, 2)])
async def test_beyond_a_thousand_blocks_ended_ones_and_those_that_an_answer_sets_again_are_deleted(
    make_pool: Make, redis: Redis, clock: ManualClock, blocks: int, stay: int
) -> None:
    pool = make_pool(1)
    lasting = packed(clock.ms + 9_000)
    made_up = {f"{'unfit' if n % 2 else 'key_resource'}:a:{n}": lasting for n in range(blocks)}
    others = {"account:team": lasting, "model:gone": packed(clock.ms)}
    await redis.hset(pool.names.blocks, mapping=made_up | others)
    await pool.settle(await lease(pool, model="m"), NOT_HAD)
    blocked = await redis.hkeys(pool.names.blocks)
    assert len(blocked) == stay
    assert {"account:team", f"unfit:{pool.keys[0].id}:m"} <= set(blocked)
    assert (await no_lease(pool, model="m")).reason == "model_not_found"


async def test_a_reset_does_not_count_a_rest_that_has_just_ended(
    make_pool: Make, clock: ManualClock
) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), refused(5_000))
    clock.tick(4_999)
    for cleared in (1, 0):
        assert (await pool.reset(by="ann")).count == cleared
        [entry] = await pool.audit(count=1)
        assert (entry["reason"], entry["until_ms"]) == (f"{cleared} cleared", "0")
        await pool.settle(await lease(pool), refused(5_000))
        clock.tick(5_000)


async def test_a_reset_wakes_the_jobs_that_wait(make_pool: Make, redis: Redis) -> None:
    pool = make_pool(1)
    async with redis.pubsub() as channel:
        await channel.subscribe(pool.names.wake)
        await channel.get_message(timeout=5)
        await pool.reset(by="ann")
        message = await channel.get_message(timeout=5)
        assert message is not None
        assert message["data"] == "reset"


# How long after a refusal a reset comes, and whether the limit is then tried at once.
@pytest.mark.parametrize(("after_ms", "tries"), [(20_000, False), (20_001, True)])
async def test_a_reset_tries_no_limit_that_a_refusal_has_just_shown(
    make_pool: Make, clock: ManualClock, after_ms: int, *, tries: bool
) -> None:
    pool = await limited(make_pool, 6)
    clock.tick(after_ms)
    while isinstance(await ask(pool), Lease):
        pass
    await pool.reset(by="ann")
    assert isinstance(await ask(pool), Lease) is tries


async def test_a_reset_gives_a_bucket_its_pace_back(make_pool: Make, clock: ManualClock) -> None:
    pool, limit = make_pool(1), ObservedLimit(Dimension.TPM, 60_000)
    await pool.settle(await lease(pool), replace(OK, limits=(replace(limit, remaining=0),)))
    clock.tick(2_000)
    refusal = refused(0, Scope.ACCOUNT_MODEL, limit)
    assert (await pool.settle(await lease(pool), refusal)).learned == ("tpm at 98 % of its pace",)
    for reset, refilled in ((False, 980), (True, 1_000)):
        if reset:
            await pool.reset(by="ann")
        before = await remaining(pool)
        await pool.settle(await lease(pool), replace(OK, limits=()))
        clock.tick(1_000)
        assert await remaining(pool) - before == pytest.approx(refilled, abs=0.1)


# The wait of a refusal, what it states as left, and what is then left for others.
@pytest.mark.parametrize(
    ("stated_ms", "stated", "left"),
    [
        (None, 2_500, 2_500),
        (1_000, 100, 100),  # enough for the call, so something else refused it
        (None, 99, 99),
        (500, 60, 50),  # at 100 tokens a second, there is then room for this call alone
        (500, 40, 40),
        (1_000, 40, 0),
        (5_000, 40, -400),
        (1_500, None, -50),
    ],
)
async def test_a_refusal_leaves_what_it_says_and_at_the_stated_time_room_for_its_call(
    make_pool: Make, clock: ManualClock, stated_ms: int | None, stated: float | None, left: float
) -> None:
    pool, limit = make_pool(1), ObservedLimit(Dimension.TPM, 6_000)
    await pool.settle(await lease(pool), replace(OK, limits=(replace(limit, remaining=3_000),)))
    clock.tick(1)
    refusal = refused(stated_ms, Scope.ACCOUNT_MODEL, replace(limit, remaining=stated))
    await pool.settle(await lease(pool, tokens=100), refusal)
    assert await remaining(pool) == pytest.approx(left, abs=0.01)


# The remaining tokens by a refusal, by a later answer, the time of a reset, and those left then.
@pytest.mark.parametrize(
    ("stated", "later", "after_ms", "left"),
    [
        (40, None, 0, 40),
        (None, None, 0, 3_000),  # all that was there
        (40, 10, 0, 10),
        (40, 1_000, 0, 40),
        (40, None, 4_000, 440),
        (40, None, 4_999, 539.9),
        (40, None, 5_000, 100),  # the rest has ended, and the refill is what is left
    ],
)
async def test_a_reset_puts_back_what_a_refusal_took_out_for_its_rest(
    make_pool: Make,
    clock: ManualClock,
    stated: float | None,
    *,
    later: float | None,
    after_ms: int,
    left: float,
) -> None:
    pool, limit = make_pool(1), ObservedLimit(Dimension.TPM, 6_000)
    await pool.settle(await lease(pool), replace(OK, limits=(replace(limit, remaining=3_000),)))
    clock.tick(1)
    refusal = refused(5_000, Scope.ACCOUNT_MODEL, replace(limit, remaining=stated))
    held, other = await lease(pool, tokens=100), await lease(pool)
    await pool.settle(held, refusal)
    assert await remaining(pool) == pytest.approx(-400, abs=0.2)
    if later is not None:
        await pool.settle(other, replace(OK, limits=(replace(limit, remaining=later),)))
    clock.tick(after_ms)
    await pool.reset(by="ann")
    assert await remaining(pool) == pytest.approx(left, abs=0.2)
