"""The pace of a bucket: unexplained refusals lower it, successful calls restore it."""

from dataclasses import replace

import pytest

from tests.integration.keypool.conftest import ManualClock
from tests.integration.keypool.keypool_asking import (
    OK,
    Make,
    ask,
    lease,
    limited,
    refused,
    remaining,
    rpm,
)
from worker.keypool import Lease
from worker.verdicts import Dimension, Fate, ObservedLimit, Scope, Verdict


async def test_a_refusal_against_the_model_lowers_the_pace(
    make_pool: Make, clock: ManualClock
) -> None:
    pool = make_pool(1)
    early = await lease(pool)
    await pool.settle(await lease(pool), rpm(600, 500))
    await pool.settle(early, refused(0, Scope.ACCOUNT_MODEL, ObservedLimit(Dimension.RPM, 600, 0)))
    assert "pace" not in " ".join(entry["reason"] for entry in await pool.audit()), (
        "the call left before the limit was known"
    )
    clock.tick(50_000)
    crowd = [await lease(pool) for _ in range(20)]
    for held in crowd:  # they are refused together, which counts once
        await pool.settle(
            held, refused(100, Scope.ACCOUNT_MODEL, ObservedLimit(Dimension.RPM, 600, 0))
        )
    assert [entry["reason"] for entry in await pool.audit()].count("rpm at 98 % of its pace") == 1
    clock.tick(10_000)
    passed = 0
    while isinstance(await ask(pool), Lease):
        passed += 1
    assert 94 <= passed <= 98, "98 of the 100 calls that the limit refills, minus the margin"


async def test_a_request_that_alone_exceeds_its_limit_lowers_no_pace(make_pool: Make) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(600, 500))
    tpm = ObservedLimit(Dimension.TPM, 6_000, 5_000)
    never_fits = Verdict(
        fate=Fate.OTHER_ACCOUNT,
        code="request_too_large",
        status=429,
        limits=(tpm,),
        too_large_limit=6_000,
    )
    crowd = [await lease(pool, tokens=9_000) for _ in range(2)]
    for held in crowd:
        assert not (await pool.settle(held, never_fits)).blocked
    assert "pace" not in " ".join(entry["reason"] for entry in await pool.audit())


async def test_calls_that_pass_bring_a_lowered_pace_back_and_no_further(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(1)
    full = ObservedLimit(Dimension.RPM, 60_000, 60_000)
    await pool.settle(await lease(pool), replace(OK, limits=(full,)))
    clock.tick(2_000)
    await pool.settle(await lease(pool), refused(1, Scope.ACCOUNT_MODEL, rpm(60_000, 0).limits[0]))

    async def refilled_in_a_second() -> float:
        await pool.settle(await lease(pool), rpm(60_000, 0))
        before = await remaining(pool)
        clock.tick(1_000)
        return await remaining(pool) - before

    clock.tick(1_000)
    assert await refilled_in_a_second() == pytest.approx(980, abs=1)
    for calls, pace in ((250, 0.99), (250, 1.0), (250, 1.0)):
        for _ in range(calls):
            await pool.settle(await lease(pool), OK)
        assert await refilled_in_a_second() == pytest.approx(1_000 * pace, abs=1)


async def test_refusals_a_second_apart_lower_the_pace_to_four_fifths(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(600, 600))
    refusal = refused(0, Scope.ACCOUNT_MODEL, ObservedLimit(Dimension.RPM, 600, 0))
    for percent in (98, 96, 94, 92, 90, 88, 86, 84, 82, 80, 80, 80):
        clock.tick(2_000)
        settled = await pool.settle(await lease(pool), refusal)
        assert settled.learned == (f"rpm at {percent} % of its pace",)


# When a call left after the earlier refusal, when it is refused, and whether that lowers the pace.
@pytest.mark.parametrize(
    ("left_ms", "refused_ms", "lowers"),
    [(1, 1_000, True), (1, 999, False), (0, 1_000, False)],
)
async def test_a_refusal_lowers_the_pace_if_the_one_before_was_known_for_a_second(
    make_pool: Make,
    clock: ManualClock,
    left_ms: int,
    refused_ms: int,
    *,
    lowers: bool,
) -> None:
    pool, limit = make_pool(1), ObservedLimit(Dimension.TPM, 6_000)
    await pool.settle(await lease(pool), replace(OK, limits=(limit,)))
    clock.tick(2_000)
    refusal = refused(0, Scope.ACCOUNT_MODEL, limit)
    first, with_it = await lease(pool), await lease(pool)
    assert (await pool.settle(first, refusal)).learned
    clock.tick(left_ms)
    second = await lease(pool) if left_ms else with_it
    clock.tick(refused_ms - left_ms)
    assert bool((await pool.settle(second, refusal)).learned) is lowers


# How long after a call beyond the limit another is refused, and whether that lowers the pace.
@pytest.mark.parametrize(("after_ms", "lowers"), [(4_999, False), (5_000, True)])
async def test_a_call_beyond_the_limit_explains_refusals_for_five_seconds(
    make_pool: Make,
    clock: ManualClock,
    after_ms: int,
    *,
    lowers: bool,
) -> None:
    pool = await limited(make_pool, 600)
    clock.tick(30_000)
    held = await lease(pool)
    while isinstance(await ask(pool), Lease):
        pass
    await pool.reset(by="ann")
    await lease(pool)  # goes beyond the limit
    clock.tick(after_ms)
    refusal = refused(0, Scope.ACCOUNT_MODEL, ObservedLimit(Dimension.RPM, 600, 0))
    assert bool((await pool.settle(held, refusal)).learned) is lowers


# Limits, their window, and whether an unexplained refusal lowers the pace.
@pytest.mark.parametrize(
    ("limit", "remaining", "lowers"),
    [
        (ObservedLimit(Dimension.TPM, 6_000), 99, True),
        (ObservedLimit(Dimension.TPM, 6_000), 100, False),  # enough for the call
        (ObservedLimit(Dimension.TPM, 6_000), None, True),  # what is left is not stated
        (ObservedLimit(Dimension.TPD, 6_000), 0, False),  # a limit of a day
        (ObservedLimit(Dimension.TPM, 6_000, window_ms=60_001), 0, False),
    ],
)
async def test_the_pace_is_lowered_for_the_limit_that_a_call_was_refused_for(
    make_pool: Make,
    clock: ManualClock,
    limit: ObservedLimit,
    remaining: float | None,
    *,
    lowers: bool,
) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), replace(OK, limits=(limit,)))
    clock.tick(2_000)
    held = await lease(pool, tokens=100)
    refusal = refused(0, Scope.ACCOUNT_MODEL, replace(limit, remaining=remaining))
    assert bool((await pool.settle(held, refusal)).learned) is lowers
