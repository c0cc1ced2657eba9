"""Who must wait: an instant of their own for those who wait here, promises to those who come back."""

from collections import Counter
from itertools import pairwise

import pytest
from keypool_asking import Make, lease, nothing, refused, rpm

from worker.keypool import Lease, Want
from worker.keypool.leases import NO_TICKET, Why
from worker.verdicts import Dimension, Fate, ObservedLimit, Scope, Verdict


async def test_each_waiter_has_an_instant_of_its_own(make_pool: Make) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(600, 0))
    waits = [(await lease(pool, max_wait_ms=5_000)).wait_ms for _ in range(20)]
    assert [later - sooner for sooner, later in pairwise(waits)] == [100] * 19


async def test_the_deferred_are_spread_over_the_capacity_that_will_be_there(make_pool: Make) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(600, 0))
    while isinstance(await pool.acquire(Want(max_wait_ms=1_000)), Lease):
        pass
    countdowns = [(await nothing(pool, max_wait_ms=1_000)).countdown_ms for _ in range(100)]
    steps = [later - sooner for sooner, later in pairwise(countdowns[1:])]
    assert all(94 <= step <= 96 for step in steps), "a little closer than the 100 ms that a call is worth"


async def test_who_comes_new_does_not_pass_the_deferred(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(600, 0))
    for _ in range(50):
        await nothing(pool)
    clock.tick(2_000)
    assert (await nothing(pool, max_wait_ms=1_000)).why is Why.DEFERRED
    assert (await lease(pool, ticket=NO_TICKET, max_wait_ms=1_000)).wait_ms == 0


async def test_a_redeemed_ticket_makes_room_for_who_comes_new(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(600, 0))
    deferred = [await nothing(pool) for _ in range(40)]
    clock.tick(deferred[-1].countdown_ms)
    for one in deferred:
        await lease(pool, ticket=one.ticket, max_wait_ms=1_000)
    clock.tick(1_000)
    assert (await lease(pool)).wait_ms == 0


async def test_tickets_that_are_not_redeemed_hold_nobody_up_for_long(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(600, 0))
    last = [await nothing(pool) for _ in range(1_000)][-1]
    clock.tick(last.countdown_ms + 30_001)
    assert (await lease(pool)).wait_ms == 0


async def test_promises_are_spaced_by_what_jobs_use_not_by_what_they_reserve(make_pool: Make) -> None:
    pool = make_pool(1)
    ample, tight = (ObservedLimit(Dimension.TPM, 10**7),), (ObservedLimit(Dimension.TPM, 60_000, 0),)
    pace = ObservedLimit(Dimension.RPM, 100_000)
    for number in range(150):  # half of what is reserved is used
        limits = (*(tight if number == 149 else ample), pace)
        used_half = Verdict(fate=Fate.DONE, code="ok", status=200, limits=limits, tokens=500)
        await pool.settle(await lease(pool, tokens=1_000), used_half)
    first, *_, last = [await nothing(pool, tokens=1_000) for _ in range(11)]
    assert last.countdown_ms - first.countdown_ms == pytest.approx(10 * 475, abs=30)


async def test_jobs_that_come_without_a_promise_line_up_at_every_account(make_pool: Make) -> None:
    pool = make_pool(3)
    for rest_ms in (10_000, 11_000, 12_000):  # one of them always opens first
        taken = await lease(pool)
        await pool.settle(taken, refused(rest_ms, Scope.ACCOUNT_MODEL, ObservedLimit(Dimension.RPM, 60, 0)))
    lines: Counter[str] = Counter()
    for _ in range(30):
        away = await nothing(pool, ticket=NO_TICKET, max_wait_ms=2_000)
        lines[away.ticket] += 1
        last_ms = away.countdown_ms
    assert len(lines) == 3
    assert min(lines.values()) > 7
    assert last_ms < 25_000
