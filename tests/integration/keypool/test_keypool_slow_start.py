"""Slow start: how calls leave while a request limit is unknown, so that few are refused."""

from itertools import pairwise

import pytest

from tests.integration.keypool.conftest import ManualClock
from tests.integration.keypool.keypool_asking import (
    OK,
    Make,
    ask,
    at_once,
    lease,
    no_lease,
    refused,
)
from worker.keypool import Lease, Line
from worker.keypool.leases import NoLeaseReason
from worker.verdicts import Dimension, ObservedLimit, Scope, Verdict


# How many calls may be in flight at first, and the interval between later calls.
@pytest.mark.parametrize(("opening", "apart_ms"), [(4, 25), (20, 12)])
async def test_calls_leave_apart_while_limits_are_unknown_once_one_has_passed(
    make_pool: Make,
    clock: ManualClock,
    opening: int,
    apart_ms: int,
) -> None:
    pool = make_pool(1, opening=opening)
    first, *_ = await at_once(pool)
    clock.tick(200)
    await pool.settle(first, OK)
    await lease(pool)
    clock.tick(50)  # the first calls left 250 ms ago and no longer count
    left_ms = []
    while len(left_ms) < 3:
        if isinstance(outcome := await ask(pool), Lease):
            left_ms.append(clock.ms)
        else:
            clock.tick(outcome.first_in_ms)
    assert [later - earlier for earlier, later in pairwise(left_ms)] == [apart_ms] * 2


async def test_a_call_that_has_an_answer_keeps_no_other_waiting_while_limits_are_unknown(
    make_pool: Make,
) -> None:
    pool = make_pool(1, opening=4)
    for _ in range(10):
        await pool.settle(await lease(pool), OK)


async def test_of_the_lines_that_wait_for_unknown_limits_the_later_ones_ask_less_often(
    make_pool: Make,
) -> None:
    pool = make_pool(1, opening=4)
    await pool.settle(await lease(pool), OK)
    await lease(pool)
    lines = [Line("m", f"line {number}") for number in range(3)]
    waits = [await no_lease(pool, line=line, waited_ms=100 - n) for n, line in enumerate(lines)]
    assert [wait.ask_in_ms for wait in waits] == [25, 50, 75]


async def test_the_number_of_calls_in_flight_grows_by_one_with_64_that_pass(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(1, opening=2)
    held = await lease(pool)
    for _ in range(63):
        await pool.settle(held, OK)

    async def in_flight() -> int:
        clock.tick(250)
        number = 0
        while True:
            if isinstance(outcome := await ask(pool), Lease):
                number += 1
            elif outcome.first_in_ms <= 25:
                clock.tick(outcome.first_in_ms)
            else:
                return number

    assert await in_flight() == 2
    await pool.settle(held, OK)
    assert await in_flight() == 3


REFUSED = refused(0)
STATED = refused(0, Scope.ACCOUNT_MODEL, ObservedLimit(Dimension.TPM, 6_000, 6_000))


# The ramp limit at first, the end of one of the calls, and the ramp limit then.
@pytest.mark.parametrize(
    ("opening", "verdict", "then"),
    [
        (8, REFUSED, 4),
        (3, REFUSED, 1),
        (1, REFUSED, 1),  # one call may always find out
        (8, STATED, 8),  # it states another limit
        (8, OK, 8),
    ],
)
async def test_a_refusal_without_a_limit_halves_how_many_calls_may_be_in_flight(
    make_pool: Make, opening: int, verdict: Verdict, then: int
) -> None:
    pool = make_pool(1, opening=opening)
    await pool.settle(await lease(pool), verdict)
    held = await lease(pool)  # after one call has passed, the next ones leave at intervals
    assert 1 + len(await at_once(pool)) == then or verdict is OK
    await pool.settle(held, OK)


async def test_unknown_limits_open_by_a_share_of_what_has_passed(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(1, opening=2)
    sizes = []
    while sum(sizes) < 600:
        batch, ends_ms = [], clock.ms + 250
        while clock.ms < ends_ms:
            if isinstance(outcome := await ask(pool), Lease):
                batch.append(outcome)
            else:
                clock.tick(outcome.first_in_ms)
        sizes.append(len(batch))
        for held in batch:
            await pool.settle(held, OK)
    assert sizes[0] == 2
    assert 10 <= sizes[-1] <= 12, (
        "after 600 calls, 2 % of that number may leave together; a limit of 600 refuses only these"
    )


async def test_limits_that_are_configured_later_end_the_slow_start(make_pool: Make) -> None:
    pool = make_pool(1, opening=1)
    assert len(await at_once(pool)) == 1
    configured = make_pool(1, opening=1, limits=[ObservedLimit(Dimension.RPM, 60)])
    assert [(await lease(configured)).wait_ms for _ in range(3)] == [0, 0, 0]


async def test_a_call_that_would_have_been_refused_by_now_makes_room_while_limits_are_unknown(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(1, opening=3)
    assert len(await at_once(pool)) == 3
    away = await no_lease(pool)
    assert away.why is NoLeaseReason.BUSY
    assert 250 <= away.first_in_ms < 310
    clock.tick(250)  # even if the worker that made the calls was killed
    assert len(await at_once(pool)) == 3


async def test_nobody_queues_at_a_known_account_while_one_of_unknown_limits_will_be_asked_again(
    make_pool: Make,
) -> None:
    pool = make_pool(2, opening=1)
    first, second = await lease(pool), await lease(pool)
    known = ObservedLimit(Dimension.RPM, 30, 0)
    await pool.settle(first, refused(20_000, Scope.ACCOUNT_MODEL, known))
    assert (await no_lease(pool, ahead_ms=2_000)).why is NoLeaseReason.BUSY
    await pool.settle(second, refused(10_000, Scope.ACCOUNT_MODEL, known))
    assert (await no_lease(pool, ahead_ms=2_000)).why is NoLeaseReason.RESTING


async def test_an_account_that_rests_is_not_asked_again_soon_because_of_calls_in_flight(
    make_pool: Make,
) -> None:
    pool = make_pool(1, opening=2)
    first, _ = await lease(pool), await lease(pool)
    await pool.settle(first, refused(20_000))
    away = await no_lease(pool, ahead_ms=2_000)
    assert away.why is NoLeaseReason.RESTING
    assert away.first_in_ms >= 20_000
