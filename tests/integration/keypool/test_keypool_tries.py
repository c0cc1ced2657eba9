"""Calls beyond a limit: a few of them find out whether it was raised, and by how much."""

import asyncio
import math
from dataclasses import replace

import pytest

from tests.integration.keypool.conftest import ManualClock
from tests.integration.keypool.keypool_asking import (
    OK,
    Make,
    ask,
    lease,
    limited,
    no_lease,
    refused,
)
from worker.keypool import KeyPool, Lease, NoLeaseReason
from worker.verdicts import Dimension, ObservedLimit, Scope

LIMIT = 601


async def without_room(make_pool: Make, clock: ManualClock) -> tuple[KeyPool, Lease]:
    """A pool with a limit that it has just learned, and a call that left before that."""
    pool = await limited(make_pool, LIMIT)
    clock.tick(1)  # the rest has ended
    return pool, await lease(pool, ahead_ms=2_000)


async def try_after(pool: KeyPool, passed: int, held: Lease) -> Lease:
    """The call that exceeds the limit after `passed` calls, and not before."""
    await asyncio.gather(*(pool.settle(held, OK) for _ in range(passed - 1)))
    await no_lease(pool)
    await pool.settle(held, OK)
    return await lease(pool)


async def refuse(pool: KeyPool, clock: ManualClock, tries: Lease, limit: int = LIMIT) -> None:
    stated = ObservedLimit(Dimension.RPM, limit, 0)
    await pool.settle(tries, refused(0, Scope.ACCOUNT_MODEL, stated))
    clock.tick(1)  # calls that leave from now on know of it


async def raise_(pool: KeyPool, tries: Lease, limit: int) -> None:
    """Let four tries pass, each right after the one before."""
    for _ in range(3):
        assert (await pool.settle(tries, OK)).learned == ()
        tries = await lease(pool)
    assert (await pool.settle(tries, OK)).learned == (f"rpm={limit} or more",)


async def test_one_call_in_334_goes_beyond_a_limit_and_a_fifth_is_lent_to_a_new_one(
    make_pool: Make, clock: ManualClock
) -> None:
    pool, held = await without_room(make_pool, clock)
    tries = await try_after(pool, 268, held)  # and 66 calls before it was known
    await refuse(pool, clock, tries)
    tries = await try_after(pool, 334, tries)
    await no_lease(pool)  # one at a time


async def test_no_more_than_one_try_is_saved_up(make_pool: Make, clock: ManualClock) -> None:
    pool, held = await without_room(make_pool, clock)
    await asyncio.gather(*(pool.settle(held, OK) for _ in range(700)))
    await lease(pool)
    await no_lease(pool)


async def test_a_configured_limit_is_first_tried_after_334_calls(
    make_pool: Make,
) -> None:
    pool = make_pool(1, limits=[ObservedLimit(Dimension.RPM, 1)])
    await try_after(pool, 334, await lease(pool))


async def test_a_try_that_a_reset_lends_is_paid_back_before_the_next_one(
    make_pool: Make, clock: ManualClock
) -> None:
    pool, held = await without_room(make_pool, clock)
    await asyncio.gather(*(pool.settle(held, OK) for _ in range(10)))
    clock.tick(20_000)  # the knowledge from the refusal may be outdated
    while isinstance(held := await ask(pool), Lease):
        last = held
    await pool.reset(by="ann")
    await lease(pool)
    await asyncio.gather(*(pool.settle(last, OK) for _ in range(257)))
    await pool.reset(by="ann")
    await no_lease(pool)
    await pool.settle(last, OK)
    await lease(pool)


async def raised_twice(make_pool: Make, clock: ManualClock) -> tuple[KeyPool, Lease]:
    """A pool whose limit was raised two times, from 601 to 1,353, and the next try."""
    pool, held = await without_room(make_pool, clock)
    tries = await try_after(pool, 268, held)
    for limit in (902, 1_353):
        await raise_(pool, tries, limit)
        tries = await lease(pool)
    return pool, tries


async def test_four_tries_in_a_row_that_pass_raise_a_limit_by_half_and_the_third_time_slowly(
    make_pool: Make, clock: ManualClock
) -> None:
    pool, tries = await raised_twice(make_pool, clock)
    await raise_(pool, tries, 2_030)
    await try_after(pool, 334, tries)


async def test_a_refusal_makes_the_pool_forget_earlier_tries_that_passed(
    make_pool: Make, clock: ManualClock
) -> None:
    pool, tries = await raised_twice(make_pool, clock)
    for _ in range(3):
        await pool.settle(tries, OK)
        tries = await lease(pool)
    await refuse(pool, clock, tries, 1_353)
    tries = await try_after(pool, 334, tries)
    await raise_(pool, tries, 2_030)
    await lease(pool)  # at once, because a refusal came in between


async def _raised(
    pool: KeyPool,
    clock: ManualClock,
    limit: int,
    *,
    calls: int,
    resets_apart_ms: float = math.inf,
) -> tuple[int, int]:
    """Call a provider with a limit a minute as fast as possible, perhaps with resets in between.

    Return how many calls passed and how many were refused.
    """
    level, passed, refusals, reset_ms = 1.0, 0, 0, clock.ms
    while passed + refusals < calls:
        if clock.ms - reset_ms >= resets_apart_ms:
            reset_ms = clock.ms
            await pool.reset(by="ann")
        outcome = await ask(pool, ahead_ms=0)
        if isinstance(outcome, Lease):
            if level >= 1:
                level, passed = level - 1, passed + 1
                await pool.settle(outcome, OK)
            else:
                refusals += 1
                wait_ms = round((1 - level) * 60_000 / limit)
                await pool.settle(
                    outcome,
                    refused(
                        wait_ms, Scope.ACCOUNT_MODEL, ObservedLimit(Dimension.RPM, limit, level)
                    ),
                )
        else:
            clock.tick(20)
            level = min(limit, level + 20 * limit / 60_000)
    return passed, refusals


async def test_a_limit_that_the_provider_raises_is_used_before_long(
    make_pool: Make, clock: ManualClock
) -> None:
    pool = await limited(make_pool, 300)
    began_ms = clock.ms
    await _raised(pool, clock, 900, calls=420)
    assert clock.ms - began_ms < 75_000, "267 calls at the old limit, and the others faster"
    [bucket] = (await pool.snapshot()).keys[0].buckets
    assert bucket.limit == pytest.approx(900, rel=0.15), (
        "the limit does not rise for ever, although saved requests pass"
    )
    assert "rpm=450 or more" in {entry["reason"] for entry in await pool.audit()}


async def test_a_limit_that_stays_is_tried_rarely(make_pool: Make, clock: ManualClock) -> None:
    pool = await limited(make_pool, 300)
    passed, refusals = await _raised(pool, clock, 300, calls=2_000)
    assert 3 <= refusals <= 0.003 * passed + 1
    [bucket] = (await pool.snapshot()).keys[0].buckets
    assert bucket.limit == 300


async def test_resets_again_and_again_lend_no_more_tries_than_are_paid_back(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = await limited(make_pool, 300)
    passed, refusals = await _raised(pool, clock, 300, calls=1_000, resets_apart_ms=5_000)
    assert 3 <= refusals <= (67 + passed) / 334 + 1, "one of the tries is lent"


async def test_a_limit_that_headers_state_is_not_tried(make_pool: Make, clock: ManualClock) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool, tokens=100), OK)
    stated = ObservedLimit(Dimension.TPM, 6_000, 0)
    for _ in range(400):
        clock.tick(60_000)
        await pool.settle(await lease(pool, tokens=100), replace(OK, limits=(stated,)))
    assert (await no_lease(pool, tokens=100)).reason == "tpm"


async def test_after_a_reset_a_limit_is_tried_at_once_and_what_is_reserved_stays_so(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = await limited(make_pool, 300)
    clock.tick(21_000)
    while (await lease(pool, ahead_ms=2_000)).wait_ms == 0:
        pass
    taken = [await lease(pool, ahead_ms=5_000) for _ in range(8)]
    await pool.reset(by="ann")
    assert (await lease(pool)).wait_ms == 0, "the call that tries the limit"
    assert (await no_lease(pool)).why is NoLeaseReason.WAIT
    assert (await lease(pool, ahead_ms=5_000)).wait_ms > taken[-1].wait_ms


async def test_a_refused_try_lowers_no_pace(make_pool: Make, clock: ManualClock) -> None:
    pool = await limited(make_pool, 300)
    clock.tick(21_000)
    while (await lease(pool, ahead_ms=2_000)).wait_ms == 0:
        pass
    await pool.reset(by="ann")
    tries = await lease(pool)
    clock.tick(200)
    refusal = refused(200, Scope.ACCOUNT_MODEL, ObservedLimit(Dimension.RPM, 300, 0))
    assert (await pool.settle(tries, refusal)).learned == ()


async def test_tries_that_pass_while_other_calls_are_refused_are_followed_by_none(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    """They used the room of the others: the limit has not changed."""
    pool = await limited(make_pool, 300)
    clock.tick(21_000)
    while (other := await lease(pool, ahead_ms=2_000)).wait_ms == 0:
        pass
    await pool.reset(by="ann")
    tries = await lease(pool)
    clock.tick(other.wait_ms)
    refusal = refused(100, Scope.ACCOUNT_MODEL, ObservedLimit(Dimension.RPM, 300, 0))
    await pool.settle(other, refusal)
    clock.tick(120)  # the rest has ended
    await pool.settle(tries, OK)
    assert (await no_lease(pool)).reason == "rpm"


async def test_calls_that_pass_after_one_reset_each_raise_no_limit(
    make_pool: Make, clock: ManualClock
) -> None:
    pool = await limited(make_pool, 300)
    clock.tick(21_000)
    while (await lease(pool, ahead_ms=2_000)).wait_ms == 0:
        pass
    for _ in range(6):
        await pool.reset(by="ann")
        await pool.settle(await lease(pool), OK)  # with the unused room
    [bucket] = (await pool.snapshot()).keys[0].buckets
    assert bucket.limit == 300


async def test_a_key_that_rests_is_not_tried_beyond_its_limit(
    make_pool: Make, clock: ManualClock
) -> None:
    pool = await limited(make_pool, 300)
    clock.tick(21_000)
    while (held := await lease(pool, ahead_ms=2_000)).wait_ms == 0:
        pass
    await pool.reset(by="ann")
    await pool.settle(held, refused(30_000, Scope.ACCOUNT_MODEL))
    assert (await no_lease(pool)).why is NoLeaseReason.RESTING


async def test_a_request_above_a_limit_is_tried_after_a_reset(make_pool: Make) -> None:
    pool = make_pool(1)
    stated = ObservedLimit(Dimension.TPM, 6_000, 6_000)
    await pool.settle(await lease(pool, tokens=1), replace(OK, limits=(stated,)))
    assert (await no_lease(pool, tokens=7_000)).why is NoLeaseReason.TOO_LARGE
    await pool.reset(by="ann")
    assert (await lease(pool, tokens=7_000)).wait_ms == 0
