"""How much must be left before a call may go, and how limits of long windows count."""

from dataclasses import replace

import pytest

from tests.integration.keypool.conftest import ManualClock
from tests.integration.keypool.keypool_asking import (
    OK,
    Make,
    ask,
    lease,
    no_lease,
    refused,
    remaining,
)
from worker.keypool import Lease, NoLeaseReason
from worker.verdicts import Dimension, ObservedLimit, Scope

HOUR_MS = 3_600_000


# A limit of tokens, the tokens of a call, and the margin that must stay, so that calls that arrive
# a little early are not refused.
@pytest.mark.parametrize(
    ("limit", "tokens", "stays"),
    [
        (ObservedLimit(Dimension.TPM, 10_000), 10, 20),  # twice the tokens of the call
        (ObservedLimit(Dimension.TPM, 10_000), 60, 100),  # a hundredth of the limit
        (ObservedLimit(Dimension.TPM, 10_000), 9_950, 50),  # the rest of the limit
        (ObservedLimit(Dimension.TPM, 10_000), 10_000, 0),
        (ObservedLimit(Dimension.TPM, 10_000, window_ms=HOUR_MS), 60, 100),
        (ObservedLimit(Dimension.TPM, 10_000, window_ms=HOUR_MS + 1), 60, 0),
        (ObservedLimit(Dimension.TPD, 10_000), 60, 0),
    ],
)
@pytest.mark.parametrize("lacks", [0, 0.5])
async def test_a_margin_stays_in_a_bucket(
    make_pool: Make, limit: ObservedLimit, tokens: int, stays: int, lacks: float
) -> None:
    pool = make_pool(1)
    left = replace(limit, remaining=tokens + stays - lacks)
    await pool.settle(await lease(pool), replace(OK, limits=(left,)))
    assert isinstance(await ask(pool, tokens=tokens), Lease) is not lacks


# Windows whose jobs wait in their process for room, for up to five seconds as for any rest.
@pytest.mark.parametrize(("window_ms", "waits"), [(60_000, True), (60_001, False)])
async def test_jobs_wait_outside_for_limits_that_refill_over_more_than_a_minute(
    make_pool: Make, window_ms: int, *, waits: bool
) -> None:
    pool = make_pool(1)
    left = ObservedLimit(Dimension.TPM, 6_000, 0, window_ms=window_ms)
    await pool.settle(await lease(pool), replace(OK, limits=(left,)))
    away = await no_lease(pool, tokens=3_000)
    assert away.why is (NoLeaseReason.WAIT if waits else NoLeaseReason.RESTING)
    assert away.first_in_ms == pytest.approx(30_600, abs=10)


@pytest.mark.parametrize(("rest_ms", "waits"), [(5_000, True), (5_001, False)])
async def test_a_rest_is_waited_for_in_the_process_up_to_the_patience(
    make_pool: Make, rest_ms: int, *, waits: bool
) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), refused(rest_ms))
    why = (await no_lease(pool)).why
    assert why is (NoLeaseReason.WAIT if waits else NoLeaseReason.RESTING)


# The other limit that is known, and by how much a rest may end later and still be named instead.
@pytest.mark.parametrize(("later_ms", "reason"), [(1_000, "rpm"), (1_001, "rate_limit")])
async def test_a_rest_is_named_by_the_limit_that_refills_within_a_second_of_it(
    make_pool: Make, later_ms: int, reason: str
) -> None:
    pool = make_pool(1)
    first, second = await lease(pool), await lease(pool)
    refusal = refused(1, Scope.ACCOUNT_MODEL, ObservedLimit(Dimension.RPM, 60, 0))
    await pool.settle(first, refusal)
    refills_ms = (await no_lease(pool)).first_in_ms
    await pool.settle(second, replace(refusal, cooldown_ms=refills_ms + later_ms, limits=()))
    away = await no_lease(pool)
    assert (away.reason, away.first_in_ms) == (reason, refills_ms + later_ms)


# Limits of a second are counted call by call up to 200 calls; larger ones refill continuously.
@pytest.mark.parametrize(("limit", "left"), [(200, 199), (201, 200.201)])
async def test_a_window_of_many_calls_refills_continuously(
    make_pool: Make, clock: ManualClock, limit: int, left: float
) -> None:
    pool = make_pool(1)
    rps = ObservedLimit(Dimension.RPS, limit)
    await pool.settle(await lease(pool), replace(OK, limits=(rps,)))
    clock.tick(2_000)
    await lease(pool)
    clock.tick(1)
    assert await remaining(pool) == pytest.approx(left)


# What is left after a limit was raised or lowered, of what was left before.
@pytest.mark.parametrize(("limit", "left"), [(8_000, 5_000), (5_000, 3_000), (2_000, 2_000)])
async def test_a_changed_limit_keeps_what_was_taken_out_of_its_bucket(
    make_pool: Make, limit: int, left: int
) -> None:
    pool = make_pool(1)
    for stated in (ObservedLimit(Dimension.TPM, 6_000, 3_000), ObservedLimit(Dimension.TPM, limit)):
        await pool.settle(await lease(pool), replace(OK, limits=(stated,)))
    assert await remaining(pool) == left
