"""Limits of the tokens in prompts, and separate limits of the tokens in answers."""

from dataclasses import replace

import pytest

from tests.integration.keypool.keypool_asking import (
    OK,
    Make,
    lease,
    no_lease,
    refused,
    remaining,
)
from worker.keypool import KeyPool
from worker.keypool.leases import NoLeaseReason
from worker.verdicts import Dimension, Fate, ObservedLimit, Verdict


def done(limit: ObservedLimit, *, input_tokens: int, output_tokens: int) -> Verdict:
    return replace(
        OK,
        tokens=input_tokens + output_tokens,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        limits=(limit,),
    )


@pytest.mark.parametrize(
    ("dimension", "reserved", "used"), [(Dimension.ITPM, 300, 250), (Dimension.OTPM, 700, 20)]
)
async def test_prompts_and_answers_are_counted_each_against_its_own_limit(
    make_pool: Make, dimension: Dimension, reserved: int, used: int
) -> None:
    pool, size = make_pool(1), {"tokens": 1_000, "input_tokens": 300, "output_tokens": 700}
    limit = ObservedLimit(dimension, 10_000)
    await pool.settle(await lease(pool, **size), done(limit, input_tokens=250, output_tokens=20))
    assert await remaining(pool) == 10_000, "the limit was not known when the call was reserved"
    held = await lease(pool, **size)
    assert await remaining(pool) == 10_000 - reserved
    await pool.settle(held, done(limit, input_tokens=250, output_tokens=20))
    assert await remaining(pool) == 10_000 - used
    waiting = await lease(pool, **size)
    await pool.settle(await lease(pool, **size), refused(60_000))
    assert await pool.confirm(waiting) is None
    assert await remaining(pool) == 10_000 - used, "all reserved tokens came back"


async def test_a_request_too_large_for_a_limit_of_prompts_or_answers_names_that_limit(
    make_pool: Make,
) -> None:
    pool = make_pool(1)
    for dimension, size in (
        (Dimension.ITPM, {"input_tokens": 101}),
        (Dimension.OTPM, {"output_tokens": 101}),
    ):
        model = dimension.value
        await pool.settle(
            await lease(pool, model=model), replace(OK, limits=(ObservedLimit(dimension, 100),))
        )
        away = await no_lease(pool, model=model, tokens=101, **size)
        assert (away.why, away.limit, away.dimension) == (NoLeaseReason.TOO_LARGE, 100, dimension)


async def test_if_a_job_names_no_cap_no_more_is_reserved_than_an_account_allows(
    make_pool: Make,
) -> None:
    pool = make_pool(2, accounts=["small", "large"])
    size = {"tokens": 1_100, "input_tokens": 100, "output_tokens": 1_000, "flexible": True}
    limits = {
        "small": ObservedLimit(Dimension.OTPM, 500),
        "large": ObservedLimit(Dimension.OTPM, 5_000),
    }
    for held in [await lease(pool) for _ in range(2)]:
        await pool.settle(held, replace(OK, limits=(limits[held.account],)))
    served = {(held := await lease(pool, **size)).account: held.request for _ in range(2)}
    assert {
        name: (lease_request.output_tokens, lease_request.tokens)
        for name, lease_request in served.items()
    } == {
        "small": (490, 590),
        "large": (1_000, 1_100),
    }
    assert [int((await one_left(pool, name)) + 0.5) for name in ("small", "large")] == [10, 4_000]


async def test_an_answer_that_is_capped_takes_less_of_the_limit_of_all_tokens_too(
    make_pool: Make,
) -> None:
    pool = make_pool(1)
    limits = ObservedLimit(Dimension.OTPM, 500), ObservedLimit(Dimension.TPM, 10_000)
    await pool.settle(await lease(pool), replace(OK, limits=limits))
    await lease(pool, tokens=1_100, input_tokens=100, output_tokens=1_000, flexible=True)
    [key] = (await pool.snapshot()).keys
    left = {bucket.dimension: bucket.remaining for bucket in key.buckets}
    assert left == pytest.approx({Dimension.OTPM: 10, Dimension.TPM: 9_410}, abs=1)


# A limit of answers a minute, the most that a job without a cap reserves, the tokens that are
# reserved then, and whether the request has to state that cap.
@pytest.mark.parametrize(
    ("limit", "most", "reserved", "capped"),
    [(500, 490, 490, False), (500, 491, 490, True), (1, 5, 1, True), (5_000, 1_000, 1_000, False)],
)
async def test_a_cap_is_named_if_a_job_would_reserve_more_than_an_account_allows(
    make_pool: Make, limit: int, most: int, reserved: int, *, capped: bool
) -> None:
    pool = make_pool(1)
    stated = ObservedLimit(Dimension.OTPM, limit)
    await pool.settle(await lease(pool), replace(OK, limits=(stated,)))
    held = await lease(pool, tokens=most, output_tokens=most, flexible=True)
    assert (held.request.output_tokens, held.capped) == (reserved, capped)


async def one_left(pool: KeyPool, account: str) -> float:
    return next(
        key.buckets[0].remaining for key in (await pool.snapshot()).keys if key.account == account
    )


async def test_an_account_that_reserves_more_for_requests_without_a_cap_is_remembered(
    make_pool: Make,
) -> None:
    pool, size = (
        make_pool(1),
        {"tokens": 1_100, "input_tokens": 100, "output_tokens": 1_000, "flexible": True},
    )
    held = await lease(pool, **size)
    assert not held.capped
    correction = {
        "limits": (ObservedLimit(Dimension.OTPM, 1_500),),
        "too_large_limit": 1_500,
        "too_large_in": Dimension.OTPM,
    }
    await pool.settle(
        held, Verdict(fate=Fate.OTHER_ACCOUNT, code="request_too_large", status=400, **correction)
    )
    again = await lease(pool, **size)
    assert (again.capped, again.request.output_tokens) == (True, 1_000)


async def test_an_account_that_reserves_more_is_remembered_when_its_limit_changes(
    make_pool: Make,
) -> None:
    pool = make_pool(1)
    size = {"tokens": 1_100, "input_tokens": 100, "output_tokens": 1_000, "flexible": True}
    limit = ObservedLimit(Dimension.OTPM, 1_500)
    uncapped = Verdict(
        fate=Fate.OTHER_ACCOUNT, code="request_too_large", status=400, limits=(limit,),
        too_large_limit=1_500, too_large_in=Dimension.OTPM,
    )  # fmt: skip
    await pool.settle(await lease(pool, **size), uncapped)
    raised = replace(OK, limits=(ObservedLimit(Dimension.OTPM, 3_000),), output_tokens=10)
    await pool.settle(await lease(pool, **size), raised)
    assert (await lease(pool, **size)).capped
