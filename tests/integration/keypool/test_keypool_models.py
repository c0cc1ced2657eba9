"""Jobs that several models may serve: one choice among keys and models."""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from config.api_key import ApiKey
from tests.integration.keypool.conftest import ManualClock
from tests.integration.keypool.keypool_asking import (
    OK,
    Make,
    ask,
    fault,
    lease,
    no_lease,
    refused,
    rpm,
)
from worker.keypool import KeyPool, Lease, Line, NoLease, NoLeaseReason
from worker.verdicts import Dimension, Effect, Fate, ObservedLimit, Scope, Verdict

TWO = {"model": "a", "resource": "a", "fallbacks": (("b", "b"),)}
UNFIT = Verdict(
    fate=Fate.OTHER_ACCOUNT,
    code="model_not_found",
    effect=Effect.UNFIT,
    scope=Scope.ACCOUNT_MODEL,
    cooldown_ms=3_600_000,
    status=404,
)


def only(model: str) -> dict[str, str]:
    return {"model": model, "resource": model}


async def limit(pool: KeyPool, model: str, count: int) -> None:
    """Give the one account a limit of requests a minute, of which nothing is used."""
    await pool.settle(await lease(pool, **only(model)), replace(rpm(count, count)))


async def test_the_first_model_is_taken_while_it_has_room_then_the_next(make_pool: Make) -> None:
    pool = make_pool(1)
    await limit(pool, "a", 10)
    await limit(pool, "b", 10)
    taken = []
    while isinstance(outcome := await ask(pool, **TWO), Lease):
        taken.append(outcome.request.resource)
        assert (outcome.request.model, outcome.request.fallbacks) == (outcome.request.resource, ())
    assert "".join(taken) in {"a" * first + "b" * second for first in (9, 10) for second in (9, 10)}
    away = await no_lease(pool, **TWO)
    assert (away.why, away.reason) == (NoLeaseReason.WAIT, "rpm")


@pytest.mark.parametrize(
    "verdict",
    [UNFIT, refused(60_000), replace(UNFIT, effect=Effect.DISABLE, scope=Scope.KEY_RESOURCE)],
)
async def test_an_unavailable_model_gives_way_to_the_next(
    make_pool: Make, verdict: Verdict
) -> None:
    pool = make_pool(2)
    for _ in range(2):
        await pool.settle(await lease(pool, **only("a")), verdict)
    assert {(await lease(pool, **TWO)).request.model for _ in range(6)} == {"b"}
    for _ in range(2):
        await pool.settle(await lease(pool, **only("b")), refused(50_000))
    away = await no_lease(pool, **TWO)
    assert (away.why, away.first_in_ms) == (NoLeaseReason.RESTING, 50_000), (
        "the job waits for the model that opens first"
    )
    await pool.reset(by="ann")
    assert (await lease(pool, **TWO)).request.model == "a"


async def test_a_model_that_is_overloaded_gives_way_until_one_job_may_try_it(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(2)
    for _ in range(2):
        await pool.settle(await lease(pool, **TWO), fault(Scope.MODEL))
        clock.tick(1_000)
    await pool.settle(await lease(pool, **TWO), fault(Scope.MODEL))
    assert {(await lease(pool, **TWO)).request.model for _ in range(4)} == {"b"}
    clock.tick(2_000)
    assert [(await lease(pool, **TWO)).request.model for _ in range(4)] == ["a", "b", "b", "b"]


async def test_a_request_too_large_for_one_model_goes_to_the_next(make_pool: Make) -> None:
    pool = make_pool(1)
    for model, tokens in (("a", 100), ("b", 1_000)):
        await pool.settle(
            await lease(pool, **only(model)),
            replace(OK, limits=(ObservedLimit(Dimension.TPM, tokens),)),
        )
    assert (await lease(pool, tokens=500, **TWO)).request.model == "b"
    away = await no_lease(pool, tokens=1_001, **TWO)
    assert (away.why, away.limit) == (NoLeaseReason.TOO_LARGE, 1_000)


async def test_a_job_whose_models_are_all_unfit_gets_no_lease_with_that_reason(
    make_pool: Make,
) -> None:
    pool = make_pool(1)
    for model in ("a", "b"):
        await pool.settle(await lease(pool, **only(model)), UNFIT)
    assert (await no_lease(pool, **TWO)).why is NoLeaseReason.UNFIT


async def test_a_lease_is_confirmed_and_settled_by_the_model_that_was_picked(
    make_pool: Make,
) -> None:
    pool = make_pool(1)
    await limit(pool, "a", 10)
    await limit(pool, "b", 10)
    await pool.settle(await lease(pool, **only("a")), refused(60_000))
    held = await lease(pool, **TWO)
    assert await pool.confirm(held) is not None
    await pool.settle(await lease(pool, **only("b")), refused(60_000))
    assert await pool.confirm(held) is None
    [key] = (await pool.snapshot()).keys
    left = {bucket.model: bucket.remaining for bucket in key.buckets}
    assert left == {"a": 10, "b": 10}


async def test_jobs_with_the_same_models_stand_in_one_line(make_pool: Make, redis: Redis) -> None:
    pool = make_pool(1)
    await limit(pool, "a", 2)
    await limit(pool, "b", 2)
    while isinstance(await ask(pool, **TWO), Lease):
        pass
    older, younger = Line("a/x", "older"), Line("a/x", "younger")
    await no_lease(pool, line=older, waited_ms=9_000, **TWO)
    behind = await no_lease(pool, line=younger, **TWO)
    assert behind.reason in {"rpm", "earlier jobs come first"}
    assert await redis.zrange(pool.names.waiting("a/x"), 0, -1) == ["older", "younger"]


async def test_forgetting_unfit_models_ends_no_rest(make_pool: Make) -> None:
    pool = make_pool(1)
    await pool.forget_unfit()
    await pool.settle(await lease(pool, **only("a")), UNFIT)
    await pool.settle(await lease(pool, **only("b")), refused(60_000))
    await pool.forget_unfit()
    assert (await lease(pool, **only("a"))).wait_ms == 0
    assert (await no_lease(pool, **only("b"))).first_in_ms == 60_000


# For two accounts and two models: the requests a minute that are left, and whether the model rests
# there.
@given(rooms=st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=4, max_size=4))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_model_is_taken_while_one_that_is_preferred_has_room(
    redis_url: str,
    new_key: Callable[..., ApiKey],
    clock: Callable[[], int],
    rooms: list[tuple[int, bool]],
) -> None:
    asyncio.run(
        _take_all(redis_url, [new_key(n, account=f"org_{n}") for n in range(2)], clock, rooms)
    )


async def _take_all(
    url: str, keys: list[ApiKey], clock: Callable[[], int], rooms: Sequence[tuple[int, bool]]
) -> None:
    async with Redis.from_url(url, decode_responses=True) as redis:
        pool = KeyPool(
            redis, "groq", keys, namespace=os.urandom(6).hex(), opening=1_000, now_ms=clock
        )
        for (left, rests), (key, model) in zip(rooms, product(keys, "ab"), strict=True):
            taken = await lease(pool, account=key.account, **only(model))
            limits = (ObservedLimit(Dimension.RPM, 1_000_000, left + 0.1),)
            await pool.settle(taken, replace(refused(60_000) if rests else OK, limits=limits))
        served = []
        while isinstance(outcome := await ask(pool, **TWO), Lease):
            served.append(outcome.request.model)
            if outcome.request.model == "b":
                assert isinstance(await ask(pool, **only("a")), NoLease)
        assert served == sorted(served)
        for model in "ab":
            assert isinstance(await ask(pool, **only(model)), NoLease)
