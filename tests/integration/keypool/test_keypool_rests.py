"""Which scopes rest, for how long, and how a rest ends."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from tests.integration.keypool.conftest import ManualClock
from tests.integration.keypool.keypool_asking import (
    INVALID,
    OK,
    Make,
    ask,
    fault,
    lease,
    no_lease,
    refused,
    rpm,
)
from worker.keypool import Lease
from worker.keypool.leases import NoLeaseReason
from worker.verdicts import Dimension, Effect, Fate, ObservedLimit, Scope, Verdict


async def test_use_is_balanced_over_equal_keys(make_pool: Make) -> None:
    pool = make_pool(4)
    used: Counter[str] = Counter()
    for _ in range(40):
        taken = await lease(pool)
        used[taken.key.id] += 1
        await pool.settle(taken, OK)
    assert set(used.values()) == {10}


async def test_a_refused_key_rests_and_the_next_serves_at_once(
    make_pool: Make, clock: Callable[[], int]
) -> None:
    pool = make_pool(2)
    first = await lease(pool)
    settled = await pool.settle(first, refused(7_000))
    assert settled.blocked
    assert settled.newly
    for _ in range(3):
        other = await lease(pool)
        assert other.key.id != first.key.id
        assert other.wait_ms == 0


async def test_a_refusal_that_says_nothing_rests_for_the_default(make_pool: Make) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), refused())
    assert 60_000 <= (await no_lease(pool)).first_in_ms < 61_000


async def test_an_exhausted_pool_names_the_moment_at_which_the_first_key_returns(
    make_pool: Make,
) -> None:
    pool = make_pool(2)
    await pool.settle(await lease(pool), refused(20_000))
    await pool.settle(await lease(pool), refused(30_000))
    away = await no_lease(pool)
    assert away.why is NoLeaseReason.RESTING
    assert away.reason == "rate_limit"
    assert 20_000 <= away.first_in_ms < 21_000


async def test_a_cooled_key_returns_by_itself(make_pool: Make, clock: ManualClock) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), refused(20_000))
    clock.tick(19_999)
    assert (await no_lease(pool)).first_in_ms >= 1
    clock.tick(1)
    assert (await lease(pool)).wait_ms == 0


async def test_a_cooldown_only_grows(make_pool: Make) -> None:
    pool = make_pool(1)
    first, second = await lease(pool), await lease(pool)
    await pool.settle(first, refused(20_000))
    again = await pool.settle(second, refused(1_000))
    assert not again.newly
    assert (await no_lease(pool)).first_in_ms >= 20_000


async def test_a_short_rest_is_waited_for_in_the_process(
    make_pool: Make, clock: ManualClock
) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), refused(3_000))
    waiting = await lease(pool, ahead_ms=5_000)
    assert waiting.wait_ms == 3_000
    clock.tick(3_000)
    assert await pool.confirm(waiting)


async def test_a_lease_whose_key_was_refused_meanwhile_is_taken_back(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(60, 60))
    early = await lease(pool)
    await pool.settle(await lease(pool), refused(1_000))
    waiting = await lease(pool, ahead_ms=5_000)
    await pool.settle(early, refused(9_000))
    clock.tick(1_000)
    left = (await pool.snapshot()).keys[0].buckets[0].remaining
    assert not await pool.confirm(waiting)
    assert (await pool.snapshot()).keys[0].buckets[0].remaining == pytest.approx(
        min(60, left + 1), abs=0.1
    )
    assert not await pool.confirm(waiting), "the lease has ended"


async def test_an_invalid_key_stays_out_until_it_is_reset(
    make_pool: Make, clock: ManualClock
) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), INVALID)
    clock.tick(40 * 86_400_000)
    assert (await no_lease(pool)).why is NoLeaseReason.DISABLED
    assert (await pool.reset(by="test")).count == 1
    assert (await lease(pool)).wait_ms == 0


async def test_a_cooldown_does_not_bring_a_disabled_key_back(
    make_pool: Make, clock: ManualClock
) -> None:
    pool = make_pool(1)
    first, second = await lease(pool), await lease(pool)
    await pool.settle(first, INVALID)
    await pool.settle(second, refused(1_000, Scope.KEY))
    clock.tick(2_000)
    assert (await no_lease(pool)).why is NoLeaseReason.DISABLED


async def test_reset_of_one_key_leaves_the_others(make_pool: Make) -> None:
    pool = make_pool(2)
    await pool.settle(await lease(pool), INVALID)
    await pool.settle(await lease(pool), INVALID)
    assert (await pool.reset(by="test", key_id=pool.keys[1].id)).count == 1
    assert (await lease(pool)).key.id == pool.keys[1].id
    with pytest.raises(KeyError):
        await pool.reset(by="test", key_id="unknown")


@pytest.mark.parametrize(
    ("scope", "same_model_serves", "other_model_serves"),
    [
        (Scope.KEY, True, True),  # the other key serves both models
        (Scope.KEY_RESOURCE, True, True),
        (Scope.ACCOUNT, False, False),  # both keys belong to one account
        (Scope.ACCOUNT_MODEL, False, True),
        (Scope.MODEL, False, True),
        (Scope.HOST, False, False),
    ],
)
async def test_a_rest_covers_its_scope_and_no_more(
    make_pool: Make,
    scope: Scope,
    same_model_serves: bool,  # noqa: FBT001
    other_model_serves: bool,  # noqa: FBT001
) -> None:
    pool = make_pool(2, accounts=["org_a", "org_a"])
    first = await lease(pool, model="big", resource="big")
    await pool.settle(first, refused(10_000, scope))
    for model, serves in (("big", same_model_serves), ("small", other_model_serves)):
        for _ in range(2):
            outcome = await ask(pool, model=model, resource=model)
            assert isinstance(outcome, Lease) is serves, (model, outcome)
            blamed_key = scope is Scope.KEY or (scope is Scope.KEY_RESOURCE and model == "big")
            if isinstance(outcome, Lease):
                assert not blamed_key or outcome.key.id != first.key.id
    assert (await pool.snapshot()).failed == (1 if scope in {Scope.KEY, Scope.KEY_RESOURCE} else 2)
    assert (await pool.reset(by="test")).count >= 1
    assert (await pool.snapshot()).failed == 0


async def test_a_resource_that_every_key_is_unfit_for_has_another_reason_than_disabled_keys(
    make_pool: Make,
) -> None:
    pool = make_pool(2)
    unfit = Verdict(
        fate=Fate.NEXT_KEY,
        code="domain_not_verified",
        effect=Effect.DISABLE,
        scope=Scope.KEY_RESOURCE,
        status=403,
    )
    for _ in range(2):
        await pool.settle(await lease(pool, resource="a.example"), unfit)
    shown = [(key.state, key.reason, key.left_ms) for key in (await pool.snapshot()).keys]
    assert shown == [("ready", "", 0)] * 2, "each key serves its own domain"
    away = await no_lease(pool, resource="a.example")
    assert (away.why, away.reason) == (NoLeaseReason.UNFIT, "domain_not_verified")
    await pool.settle(await lease(pool, resource="b.example"), INVALID)
    await pool.settle(await lease(pool, resource="c.example"), unfit)
    assert (await no_lease(pool, resource="c.example")).why is NoLeaseReason.DISABLED
    await pool.reset(by="test")
    await pool.settle(await lease(pool, model="m", resource="m"), unfit)
    shown = [(key.state, key.reason, key.left_ms) for key in (await pool.snapshot()).keys]
    assert sorted(shown, key=str) == [("cooling", "domain_not_verified", None), ("ready", "", 0)], (
        "an unfit model is shown, an unfit domain is not"
    )


async def test_excluded_keys_and_accounts_are_not_offered(make_pool: Make) -> None:
    pool = make_pool(2)
    ids = [key.id for key in pool.keys]
    for _ in range(3):
        assert (await lease(pool, exclude=frozenset(ids[:1]))).key.id == ids[1]
        assert (await lease(pool, exclude_accounts=frozenset(ids[1:]))).key.id == ids[0]
    assert (await no_lease(pool, exclude=frozenset(ids))).why is NoLeaseReason.NO_KEYS


async def test_a_key_with_two_blocks_shows_the_longer_one(make_pool: Make) -> None:
    pool = make_pool(1)
    first, second = await lease(pool, model="m"), await lease(pool, model="n")
    await pool.settle(first, refused(9_000, Scope.KEY))
    spent = Verdict(
        Fate.NEXT_KEY,
        "spend_limit",
        effect=Effect.COOL,
        scope=Scope.ACCOUNT,
        cooldown_ms=70_000,
        status=400,
    )
    await pool.settle(second, spent)
    (key,) = (await pool.snapshot()).keys
    assert (key.reason, key.left_ms, len(key.blocks)) == ("spend_limit", 70_000, 2)
    assert (key.calls, key.tokens) == (2, 0), "the key never served"


NOT_HAD = Verdict(
    fate=Fate.OTHER_ACCOUNT,
    code="model_not_found",
    effect=Effect.UNFIT,
    scope=Scope.ACCOUNT_MODEL,
    cooldown_ms=3_600_000,
    status=404,
)


async def test_an_account_without_a_model_is_not_a_candidate_for_it_until_an_hour_is_over(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(3, accounts=["one", "one", "two"])
    waiting = [await lease(pool, model="m") for _ in range(3)]
    first = next(waiting_lease for waiting_lease in waiting if waiting_lease.account == "one")
    assert (await pool.settle(first, NOT_HAD)).newly
    left = [waiting_lease for waiting_lease in waiting if waiting_lease is not first]
    assert {
        waiting_lease.account
        for waiting_lease in left
        if await pool.confirm(waiting_lease) is not None
    } == {"two"}
    assert {(await lease(pool, model="m")).account for _ in range(10)} == {"two"}
    assert {(await lease(pool, model="n")).account for _ in range(10)} == {"one", "two"}
    shown = [
        (key.state, key.reason, [block.state for block in key.blocks])
        for key in (await pool.snapshot()).keys
    ]
    assert shown == [("ready", "", ["unfit"]), ("ready", "", ["unfit"]), ("ready", "", [])]
    clock.tick(3_599_000)
    assert {(await lease(pool, model="m")).account for _ in range(10)} == {"two"}
    clock.tick(1_001)
    assert {(await lease(pool, model="m")).account for _ in range(10)} == {"one", "two"}


async def test_an_unfit_account_is_the_reason_even_if_its_key_is_disabled_as_well(
    make_pool: Make,
) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool, model="m"), NOT_HAD)
    await pool.disable(pool.keys[0].id, by="ann")
    assert (await no_lease(pool, model="m")).why is NoLeaseReason.UNFIT
    assert (await no_lease(pool, model="n")).why is NoLeaseReason.DISABLED


async def test_models_and_domains_that_do_not_exist_leave_little_behind(
    make_pool: Make,
    redis: Redis,
    clock: ManualClock,
) -> None:
    pool = make_pool(2, accounts=["one", "two"])
    stays = await lease(pool, model="real")
    await pool.settle(stays, refused(9_000_000, Scope.ACCOUNT_MODEL))
    denied = replace(NOT_HAD, effect=Effect.DISABLE, scope=Scope.KEY_RESOURCE)
    for number in range(800):
        name = f"made up {number}"
        await pool.settle(await lease(pool, model=name), NOT_HAD)
        await pool.settle(await lease(pool, resource=name), denied)
        await pool.settle(await lease(pool, model=f"down {number}"), fault(Scope.MODEL))
        clock.tick(10)
    assert await redis.hlen(pool.names.blocks) <= 1_001
    assert len([name async for name in redis.scan_iter("*account_model*made up*")]) == 0
    assert await redis.hexists(pool.names.blocks, f"account_model:{stays.account}:real")


@pytest.mark.parametrize("one_key", [True, False])
async def test_a_reset_forgets_which_models_an_account_does_not_have(
    make_pool: Make,
    one_key: bool,  # noqa: FBT001
) -> None:
    pool = make_pool(1, accounts=["one"])
    await pool.settle(await lease(pool, model="m"), NOT_HAD)
    away = await no_lease(pool, model="m")
    assert (away.why, away.reason) == (NoLeaseReason.UNFIT, "model_not_found")
    done = await pool.reset(by="ann", key_id=pool.keys[0].id if one_key else None)
    assert [(block.scope, block.name, block.state) for block in done.brought_back] == [
        ("account_model", "one × m", "unfit")
    ]
    assert (await lease(pool, model="m")).account == "one"


@pytest.mark.parametrize(
    ("longer_ms", "code", "reason"),
    [
        (500, "rate_limit", "rpm"),  # the same wait as for the limit, whose name says more
        (20_000, "rate_limit", "rate_limit"),
        (500, "capacity", "capacity"),
    ],
)
async def test_a_rest_that_ends_as_its_limit_refills_is_named_by_the_limit(
    make_pool: Make, longer_ms: int, code: str, reason: str
) -> None:
    pool = make_pool(1)
    first, second = await lease(pool), await lease(pool)
    refusal = refused(1, Scope.ACCOUNT_MODEL, ObservedLimit(Dimension.RPM, 60, 0))
    await pool.settle(first, refusal)
    refills = await no_lease(pool)
    assert refills.reason == "rpm"
    rest_ms = refills.first_in_ms + longer_ms
    await pool.settle(second, replace(refusal, code=code, cooldown_ms=rest_ms, limits=()))
    assert (await no_lease(pool)).reason == reason
