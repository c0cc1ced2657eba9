"""The pace of a bucket: refusals that no limit explains lower it, calls that pass bring it back."""

from dataclasses import replace

import pytest

from tests.integration.keypool.keypool_asking import (
    OK,
    Make,
    ask,
    lease,
    refused,
    remaining,
    rpm,
)
from worker.keypool import Lease
from worker.verdicts import Dimension, Fate, ObservedLimit, Scope, Verdict


async def test_a_refusal_against_the_model_lowers_the_pace(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    early = await lease(pool)
    await pool.settle(await lease(pool), rpm(600, 500))
    await pool.settle(early, refused(0, Scope.ACCOUNT_MODEL, ObservedLimit(Dimension.RPM, 600, 0)))
    assert "pace" not in " ".join(entry["reason"] for entry in await pool.audit()), (
        "it left before the limit was known"
    )
    clock.tick(50_000)
    crowd = [await lease(pool) for _ in range(20)]
    for held in crowd:  # refused together, it counts once
        await pool.settle(
            held, refused(100, Scope.ACCOUNT_MODEL, ObservedLimit(Dimension.RPM, 600, 0))
        )
    assert [entry["reason"] for entry in await pool.audit()].count("rpm at 98 % of its pace") == 1
    clock.tick(10_000)
    passed = 0
    while isinstance(await ask(pool), Lease):
        passed += 1
    assert 94 <= passed <= 98, "98 of the 100 that the limit would refill, less the margin"


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
    clock,  # noqa: ANN001
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
