"""Two priorities: bulk takes what interactive jobs leave."""

import random

import pytest
from keypool_asking import OK, Make, at_once, lease, nothing, refused, rpm

from worker.keypool import Lease, Want
from worker.keypool.leases import NO_TICKET, Why
from worker.verdicts import Dimension, Fate, ObservedLimit, Scope, Verdict


async def test_bulk_takes_what_is_free_now(make_pool: Make) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(600, 100))
    taken = 0
    while isinstance(got := await pool.acquire(Want(bulk=True, max_wait_ms=5_000)), Lease):
        taken += 1
        assert got.wait_ms <= 100, "what one call is worth"
    assert 98 <= taken <= 101


async def test_bulk_delays_an_interactive_job_by_one_call_at_most(make_pool: Make) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(600, 0))
    for _ in range(50):
        await pool.acquire(Want(bulk=True, max_wait_ms=5_000))
    with_bulk = await lease(pool, max_wait_ms=5_000)
    assert with_bulk.wait_ms <= 100 * (1 + 2 + 1), "its own call, the margin of two, and one of bulk"
    later = [(await lease(pool, max_wait_ms=5_000)).wait_ms for _ in range(20)]
    for _ in range(50):
        assert not isinstance(await pool.acquire(Want(bulk=True, max_wait_ms=5_000)), Lease)
    assert (await lease(pool, max_wait_ms=5_000)).wait_ms - later[-1] == 100


async def test_bulk_waits_behind_what_was_promised_to_interactive_jobs(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(600, 0))
    bulk = [await nothing(pool, bulk=True) for _ in range(30)][-1]
    interactive = [await nothing(pool) for _ in range(50)]
    assert interactive[-1].countdown_ms < 5_300, "the promises to bulk do not count for it"
    clock.tick(bulk.countdown_ms)  # capacity for 30 calls is there, and promised to interactive jobs
    again = await nothing(pool, bulk=True, ticket=bulk.ticket, max_wait_ms=1_000)
    assert again.countdown_ms > 1_500
    for one in interactive[:28]:
        assert (await lease(pool, ticket=one.ticket, max_wait_ms=500)).wait_ms == 0


async def test_bulk_is_told_an_instant_behind_everybody_and_served_then(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(600, 0))
    interactive = [await nothing(pool) for _ in range(20)]
    bulk = [await nothing(pool, bulk=True) for _ in range(5)]
    assert bulk[0].countdown_ms > interactive[-1].countdown_ms
    clock.tick(interactive[-1].countdown_ms)
    for one in interactive:
        await lease(pool, ticket=one.ticket, max_wait_ms=1_000)
    clock.tick(bulk[-1].countdown_ms - interactive[-1].countdown_ms + 1_000)
    for one in bulk:
        assert (await lease(pool, bulk=True, ticket=one.ticket, max_wait_ms=1_000)).wait_ms <= 100


@pytest.mark.parametrize(
    "limit",
    [
        ObservedLimit(Dimension.RPM, 600, 0),  # refills all the time
        ObservedLimit(Dimension.RPS, 10, 0),  # a window
    ],
)
async def test_bulk_does_not_starve_where_interactive_jobs_leave_a_tenth(
    make_pool: Make,
    clock,  # noqa: ANN001
    limit: ObservedLimit,
) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), Verdict(fate=Fate.DONE, code="ok", status=200, limits=(limit,)))
    draw = random.Random(7)  # noqa: S311 - a crowd, no secret
    due_ms, ticket, served, waits = clock.ms, "", 0, []
    for _ in range(1_200):  # two minutes; nine interactive jobs a second, at random
        clock.tick(100)
        if draw.random() < 0.9:
            got = await lease(pool, max_wait_ms=60_000)
            waits.append(got.wait_ms)
            await pool.settle(got, OK)
        if clock.ms >= due_ms:
            bulk = await pool.acquire(Want(bulk=True, ticket=ticket, max_wait_ms=1_000))
            if isinstance(bulk, Lease):
                served, ticket = served + 1, ""
                await pool.settle(bulk, OK)
            else:
                due_ms, ticket = clock.ms + bulk.countdown_ms, bulk.ticket
    assert served >= 40, "of the 120 calls that are left"
    assert max(waits) < 5_000


async def test_bulk_reserves_nothing_behind_a_rest(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    await pool.settle(await lease(pool), refused(400, Scope.ACCOUNT_MODEL, ObservedLimit(Dimension.RPM, 600, 600)))
    assert (await nothing(pool, bulk=True, max_wait_ms=1_000)).why is Why.DEFERRED
    assert (await lease(pool, max_wait_ms=1_000)).wait_ms == 400
    clock.tick(400)
    assert (await lease(pool, bulk=True, ticket=NO_TICKET, max_wait_ms=1_000)).wait_ms == 0


async def test_bulk_leaves_unknown_limits_to_interactive_jobs_that_wait(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1, opening=2)
    assert (await lease(pool, bulk=True)).wait_ms == 0
    assert len(await at_once(pool)) == 1  # and one asked in vain
    clock.tick(260)
    assert (await nothing(pool, bulk=True)).why is Why.BUSY
    assert len(await at_once(pool)) == 2
    clock.tick(1_000)
    assert (await lease(pool, bulk=True)).wait_ms == 0
