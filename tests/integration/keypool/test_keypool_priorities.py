"""Two priorities: bulk jobs get the capacity that interactive jobs leave."""

import random

import pytest

from tests.integration.keypool.conftest import ManualClock
from tests.integration.keypool.keypool_asking import OK, Make, ask, lease, no_lease, refused, rpm
from worker.keypool import Lease, LeaseRequest, Line, NoLeaseReason
from worker.verdicts import Dimension, Fate, ObservedLimit, Scope, Verdict

INTERACTIVE, BULK = Line("m", "one"), Line("m bulk", "one")


async def test_bulk_takes_what_is_free_now(make_pool: Make) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(600, 100))
    taken = 0
    while isinstance(outcome := await ask(pool, bulk=True, ahead_ms=2_000), Lease):
        taken += 1
        assert outcome.wait_ms <= 100, "the time that one call takes to refill"
    assert 98 <= taken <= 101


async def test_a_job_with_a_tenant_reserves_no_further_ahead_than_others_may_have_to_wait(
    make_pool: Make,
) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(6_000, 0))
    waits_ms = []
    while isinstance(outcome := await ask(pool, tenant="big", ahead_ms=2_000), Lease):
        waits_ms.append(outcome.wait_ms)
    assert 200 < max(waits_ms) <= 250
    assert (await lease(pool, ahead_ms=2_000)).wait_ms > 250, (
        "a job without a tenant may wait longer"
    )


@pytest.mark.parametrize(
    ("shape", "ahead_ms"),
    [
        ({}, 2_000),
        ({"tenant": "big"}, 250),
        ({"bulk": True}, 100),
        ({"bulk": True, "tenant": "big"}, 100),
    ],
)
async def test_how_far_ahead_a_call_is_reserved(
    make_pool: Make, shape: dict[str, object], ahead_ms: int
) -> None:
    pool, waits_ms = make_pool(1), []
    await pool.settle(await pool.acquire(LeaseRequest()), rpm(6_000, 0))  # type: ignore[arg-type]
    while isinstance(outcome := await pool.acquire(LeaseRequest(**shape)), Lease):  # type: ignore[arg-type]
        waits_ms.append(outcome.wait_ms)
    assert waits_ms == list(range(30, ahead_ms + 1, 10))


async def test_bulk_delays_an_interactive_job_by_one_call_at_most(make_pool: Make) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(600, 0))
    for _ in range(50):
        await ask(pool, bulk=True, ahead_ms=2_000)
    assert (await lease(pool, ahead_ms=2_000)).wait_ms <= 100 * (1 + 2 + 1), (
        "its own call, the margin of two calls, and one bulk call"
    )
    later = [(await lease(pool, ahead_ms=5_000)).wait_ms for _ in range(10)]
    for _ in range(50):
        await no_lease(pool, bulk=True, ahead_ms=2_000)
    assert (await lease(pool, ahead_ms=5_000)).wait_ms - later[-1] == 100


async def test_bulk_waits_while_interactive_jobs_stand_in_line(
    make_pool: Make, clock: ManualClock
) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(600, 0))
    while isinstance(await ask(pool, ahead_ms=2_000, line=INTERACTIVE), Lease):
        pass
    clock.tick(1_000)
    away = await no_lease(pool, bulk=True, line=BULK)
    assert (away.why, away.reason) == (NoLeaseReason.WAIT, "interactive jobs come first")
    assert (away.ask_in_ms, away.first_in_ms) == (250, 0), "the keys were not read"
    clock.tick(2_000)  # its process has died, otherwise it would have asked again
    assert (await lease(pool, bulk=True, line=BULK)).wait_ms == 0


@pytest.mark.parametrize(
    "limit",
    [
        ObservedLimit(Dimension.RPM, 600, 0),  # refills continuously
        ObservedLimit(Dimension.RPS, 10, 0),  # a window
    ],
)
async def test_bulk_does_not_starve_if_interactive_jobs_leave_a_tenth(
    make_pool: Make,
    clock: ManualClock,
    limit: ObservedLimit,
) -> None:
    pool = make_pool(1)
    await pool.settle(
        await lease(pool), Verdict(fate=Fate.DONE, code="ok", status=200, limits=(limit,))
    )
    draw = random.Random(7)  # noqa: S311 - a crowd, no secret
    due_ms, served, waits = clock.ms, 0, []
    for _ in range(1_200):  # two minutes; nine interactive jobs a second, at random
        clock.tick(100)
        if draw.random() < 0.9:
            taken = await lease(pool, ahead_ms=60_000)
            waits.append(taken.wait_ms)
            await pool.settle(taken, OK)
        if clock.ms >= due_ms:
            bulk = await ask(pool, bulk=True, ahead_ms=2_000)
            if isinstance(bulk, Lease):
                served += 1
                await pool.settle(bulk, OK)
            else:
                due_ms = clock.ms + bulk.ask_in_ms
    assert served >= 40, "a third of the 120 calls that interactive jobs leave"
    assert max(waits) < 5_000


async def test_bulk_reserves_nothing_behind_a_rest(make_pool: Make, clock: ManualClock) -> None:
    pool = make_pool(1)
    await pool.settle(
        await lease(pool), refused(400, Scope.ACCOUNT_MODEL, ObservedLimit(Dimension.RPM, 600, 600))
    )
    assert (await no_lease(pool, bulk=True, ahead_ms=1_000)).why is NoLeaseReason.WAIT
    assert (await lease(pool, ahead_ms=1_000)).wait_ms == 400
    clock.tick(400)
    assert (await lease(pool, bulk=True, ahead_ms=1_000)).wait_ms == 0


async def test_bulk_leaves_unknown_limits_to_interactive_jobs_that_wait(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(1, opening=2)
    assert (await lease(pool, bulk=True, line=BULK)).wait_ms == 0
    await lease(pool, line=INTERACTIVE)
    assert (await no_lease(pool, line=INTERACTIVE)).why is NoLeaseReason.BUSY
    clock.tick(260)
    assert (await no_lease(pool, bulk=True, line=BULK)).reason == "interactive jobs come first"
    for _ in range(2):
        await lease(pool, line=Line("m", "one", entered=True))
    assert (await no_lease(pool, bulk=True, line=BULK)).why is NoLeaseReason.BUSY
    clock.tick(260)
    assert (await lease(pool, bulk=True, line=BULK)).wait_ms == 0
