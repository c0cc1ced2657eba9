"""Calls beyond a limit: few find out whether it was raised, and by how much."""

import asyncio

from tests.integration.keypool.conftest import ManualClock
from tests.integration.keypool.keypool_asking import (
    OK,
    Make,
    ask,
    lease,
    limited,
    nothing,
    refused,
)
from worker.keypool import KeyPool, Lease
from worker.verdicts import Dimension, ObservedLimit, Scope

LIMIT = 601


async def without_room(make_pool: Make, clock: ManualClock) -> tuple[KeyPool, Lease]:
    """A pool with a limit that it has just learned, and a call that left before."""
    pool = await limited(make_pool, LIMIT)
    clock.tick(1)  # the rest is over
    return pool, await lease(pool, ahead_ms=2_000)


async def try_after(pool: KeyPool, passed: int, held: Lease) -> Lease:
    """The call that goes beyond the limit after so many that passed, and not before."""
    await asyncio.gather(*(pool.settle(held, OK) for _ in range(passed - 1)))
    await nothing(pool)
    await pool.settle(held, OK)
    return await lease(pool)


async def refuse(pool: KeyPool, clock: ManualClock, tries: Lease, limit: int = LIMIT) -> None:
    told = ObservedLimit(Dimension.RPM, limit, 0)
    await pool.settle(tries, refused(0, Scope.ACCOUNT_MODEL, told))
    clock.tick(1)  # what leaves from now on knows of it


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
    tries = await try_after(pool, 268, held)  # and 66 before it was known
    await refuse(pool, clock, tries)
    tries = await try_after(pool, 334, tries)
    await nothing(pool)  # one at a time


async def test_no_more_than_one_try_is_saved_up(make_pool: Make, clock: ManualClock) -> None:
    pool, held = await without_room(make_pool, clock)
    await asyncio.gather(*(pool.settle(held, OK) for _ in range(700)))
    await lease(pool)
    await nothing(pool)


async def test_of_a_limit_that_was_configured_nothing_had_passed_before(
    make_pool: Make,
) -> None:
    pool = make_pool(1, limits=[ObservedLimit(Dimension.RPM, 1)])
    await try_after(pool, 334, await lease(pool))


async def test_a_try_that_a_reset_lends_is_paid_back_before_the_next_one(
    make_pool: Make, clock: ManualClock
) -> None:
    pool, held = await without_room(make_pool, clock)
    await asyncio.gather(*(pool.settle(held, OK) for _ in range(10)))
    clock.tick(20_000)  # what the refusal has shown may be out of date
    while isinstance(held := await ask(pool), Lease):
        last = held
    await pool.reset(by="ann")
    await lease(pool)
    await asyncio.gather(*(pool.settle(last, OK) for _ in range(257)))
    await pool.reset(by="ann")
    await nothing(pool)
    await pool.settle(last, OK)
    await lease(pool)


async def raised_twice(make_pool: Make, clock: ManualClock) -> tuple[KeyPool, Lease]:
    """A pool whose limit was raised two times, from 601 to 1,353, and the try that follows."""
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


async def test_a_refusal_has_tries_that_passed_before_forgotten(
    make_pool: Make, clock: ManualClock
) -> None:
    pool, tries = await raised_twice(make_pool, clock)
    for _ in range(3):
        await pool.settle(tries, OK)
        tries = await lease(pool)
    await refuse(pool, clock, tries, 1_353)
    tries = await try_after(pool, 334, tries)
    await raise_(pool, tries, 2_030)
    await lease(pool)  # at once, since the refusal came between
