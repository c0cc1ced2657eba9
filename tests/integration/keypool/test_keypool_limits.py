"""Limits are learned, and never overdrawn."""

import asyncio
from dataclasses import replace
from itertools import pairwise

import pytest

from tests.integration.keypool.conftest import ManualClock
from tests.integration.keypool.keypool_asking import (
    INVALID,
    OK,
    Make,
    ask,
    lease,
    no_lease,
    refused,
    remaining,
    rpm,
)
from worker.keypool import Lease, LeaseRequest, NoLease
from worker.keypool.leases import NoLeaseReason
from worker.verdicts import ABANDONED, Dimension, Fate, ObservedLimit, Scope, Verdict


async def test_a_learned_bucket_is_never_overdrawn_and_refills_continuously(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(60, 10))
    at_once = 0
    while isinstance(await ask(pool), Lease):
        at_once += 1
    assert 9 <= at_once <= 10
    clock.tick(10_000)
    later = 0
    while isinstance(await ask(pool), Lease):
        later += 1
    assert 9 <= later <= 10


async def test_tokens_are_charged_as_estimated_and_put_right_when_known(make_pool: Make) -> None:
    pool = make_pool(1)
    tpm = (ObservedLimit(Dimension.TPM, 6_000, 6_000),)
    await pool.settle(
        await lease(pool, tokens=100),
        Verdict(fate=Fate.DONE, code="ok", status=200, limits=tpm, tokens=100),
    )
    taken = await lease(pool, tokens=4_000)
    assert (await pool.snapshot()).keys[0].buckets[0].remaining == pytest.approx(2_000, abs=1)
    assert isinstance(await ask(pool, tokens=4_000), NoLease)
    await pool.settle(taken, Verdict(fate=Fate.DONE, code="ok", status=200, tokens=500))
    assert (await pool.snapshot()).keys[0].buckets[0].remaining == pytest.approx(5_500, abs=1)


async def test_tokens_that_a_call_did_not_use_come_back_on_top_of_what_the_provider_had_left(
    make_pool: Make,
) -> None:
    pool = make_pool(1)
    await pool.settle(
        await lease(pool), replace(OK, limits=(ObservedLimit(Dimension.TPM, 6_000, 6_000),))
    )
    taken = await lease(pool, tokens=5_000)
    # The provider wrote the header while it still reserved all tokens that the call might use.
    await pool.settle(
        taken, replace(OK, limits=(ObservedLimit(Dimension.TPM, 6_000, 1_000),), tokens=100)
    )
    assert (await pool.snapshot()).keys[0].buckets[0].remaining == pytest.approx(5_900, abs=1)
    refusal = await lease(pool, tokens=2_000)
    await pool.settle(refusal, refused(0, Scope.KEY, ObservedLimit(Dimension.TPM, 6_000, 1_000)))
    assert (await pool.snapshot()).keys[0].buckets[0].remaining == pytest.approx(1_000, abs=1), (
        "the refused call keeps no tokens reserved"
    )


async def test_tokens_that_a_call_did_not_use_come_back_to_a_limit_that_its_answer_changes(
    make_pool: Make,
) -> None:
    pool = make_pool(1)
    await pool.settle(
        await lease(pool), replace(OK, limits=(ObservedLimit(Dimension.TPM, 6_000, 6_000),))
    )
    taken = await lease(pool, tokens=4_000)
    raised = ObservedLimit(Dimension.TPM, 7_000)
    await pool.settle(taken, replace(OK, limits=(raised,), tokens=500))
    assert await remaining(pool) == pytest.approx(6_500, abs=1)


async def test_a_call_beyond_a_limit_puts_back_nothing_since_it_took_nothing(
    make_pool: Make,
) -> None:
    pool = make_pool(1)
    await pool.settle(
        await lease(pool), replace(OK, limits=(ObservedLimit(Dimension.TPM, 6_000, 6_000),))
    )
    await lease(pool, tokens=4_000)
    await pool.reset(by="ann")
    tries = await lease(pool, tokens=4_000)
    await pool.settle(tries, replace(OK, tokens=500))
    assert await remaining(pool) == pytest.approx(2_000, abs=1)


async def test_a_request_above_every_limit_fails_at_once_with_the_limit_named(
    make_pool: Make,
) -> None:
    pool = make_pool(1)
    tpm = (ObservedLimit(Dimension.TPM, 6_000),)
    await pool.settle(await lease(pool), Verdict(fate=Fate.DONE, code="ok", status=200, limits=tpm))
    too_large = await no_lease(pool, tokens=6_001)
    assert (too_large.why, too_large.limit) == (NoLeaseReason.TOO_LARGE, 6_000)
    assert (await lease(pool, tokens=6_000)).wait_ms == 0, "a call as large as the limit fits"


async def test_a_request_that_fits_a_disabled_account_alone_waits_for_it(make_pool: Make) -> None:
    pool = make_pool(2)
    for limit in (6_000, 250_000):
        tpm = (ObservedLimit(Dimension.TPM, limit),)
        taken = await lease(pool)
        await pool.settle(taken, replace(OK, limits=tpm))
    await pool.disable(taken.key.id, by="ann")
    assert (await no_lease(pool, tokens=10_000)).why is NoLeaseReason.DISABLED
    assert (await no_lease(pool, tokens=300_000)).why is NoLeaseReason.TOO_LARGE


async def test_a_stated_limit_of_zero_is_ignored(make_pool: Make) -> None:
    pool = make_pool(1)
    none = (ObservedLimit(Dimension.TPM, 0, 0),)
    await pool.settle(
        await lease(pool), Verdict(fate=Fate.DONE, code="ok", status=200, limits=none)
    )
    assert (await lease(pool, tokens=10)).wait_ms == 0


async def test_after_a_stated_wait_one_call_fits_and_the_others_follow_at_the_rate(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(1)
    early = await lease(pool)
    await pool.settle(await lease(pool), rpm(60, 60))
    await pool.settle(
        early, refused(30_000, Scope.ACCOUNT_MODEL, ObservedLimit(Dimension.RPM, 60, 0))
    )
    clock.tick(30_000)
    starts = [(await lease(pool, ahead_ms=60_000)).wait_ms for _ in range(5)]
    # A margin of less than a call stays in a bucket of 60.
    assert 0 <= starts[0] <= 1_000
    assert [later - first for first, later in pairwise(starts)] == [pytest.approx(1_000, abs=2)] * 4


async def test_a_reset_gives_back_what_a_stated_wait_had_taken(
    make_pool: Make, clock: ManualClock
) -> None:
    pool = make_pool(1)
    crowd = [await lease(pool) for _ in range(2)]
    await pool.settle(await lease(pool), rpm(60, 60))
    for early in crowd:
        await pool.settle(
            early, refused(40_000, Scope.ACCOUNT_MODEL, ObservedLimit(Dimension.RPM, 60, 0))
        )
        clock.tick(5_000)
    await pool.reset(by="ann")
    at_once = 0
    while isinstance(await ask(pool), Lease):
        at_once += 1
    assert 4 <= at_once <= 5, "the refill since the last refusal that stated 0, minus the margin"


async def test_a_refused_call_costs_the_bucket_nothing(make_pool: Make) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(60, 60))
    before = (await pool.snapshot()).keys[0].buckets[0].remaining
    await pool.settle(await lease(pool), INVALID)
    assert (await pool.snapshot()).keys[0].buckets[0].remaining == pytest.approx(before, abs=0.01)


async def test_keys_that_name_one_organisation_share_its_limits_from_then_on(
    make_pool: Make,
) -> None:
    pool, other = make_pool(2), make_pool(2)
    first = await lease(pool)
    second = await lease(pool)
    assert first.account != second.account
    full = ObservedLimit(Dimension.RPM, 30, 0)
    await pool.settle(first, refused(6_000, Scope.ACCOUNT_MODEL, full, account="org_x"))
    await pool.settle(second, refused(6_000, Scope.ACCOUNT_MODEL, full, account="org_x"))
    assert {key.account for key in (await pool.snapshot()).keys} == {"org_x"}
    # Another process does not know of it; its next call corrects that.
    assert (await no_lease(other)).why is NoLeaseReason.RESTING
    assert {other.account_of(key) for key in other.keys} == {"org_x"}
    assert [entry["event"] for entry in await pool.audit()].count("account_learned") == 2


async def test_a_process_that_has_read_its_keys_before_is_put_right_by_its_next_call(
    make_pool: Make,
) -> None:
    pool, other = make_pool(2), make_pool(2)
    await other.settle(await lease(other), OK)
    for _ in range(2):
        await pool.settle(await lease(pool), replace(OK, account="org_x"))
    assert {other.account_of(key) for key in other.keys} == {key.id for key in other.keys}
    assert (await lease(other)).account == "org_x"
    assert {other.account_of(key) for key in other.keys} == {"org_x"}, (
        "each of its keys has the new account"
    )


async def test_configured_limits_are_a_start_until_the_provider_speaks(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(
        1, opening=1, limits=[ObservedLimit(Dimension.RPM, 60), ObservedLimit(Dimension.TPM, 6_000)]
    )
    assert (await no_lease(pool, tokens=6_001)).why is NoLeaseReason.TOO_LARGE
    taken = [await lease(pool, tokens=100) for _ in range(50)]
    assert (await no_lease(pool, tokens=6_000 - 5_000 + 1)).why is NoLeaseReason.WAIT, (
        "the tokens of earlier calls count"
    )
    await pool.settle(
        taken[0], replace(OK, limits=(ObservedLimit(Dimension.TPM, 12_000, 11_000),), tokens=100)
    )
    remaining = {
        bucket.dimension: bucket.remaining for bucket in (await pool.snapshot()).keys[0].buckets
    }
    assert remaining == {"rpm": pytest.approx(10), "tpm": pytest.approx(7_000)}, (
        "the requests and tokens of the other calls stay used"
    )
    clock.tick(1_000)
    assert (await lease(pool, tokens=7_000)).wait_ms == 0


async def test_a_reserved_call_waits_longer_if_a_refusal_shows_that_less_is_left(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(60, 10))
    spent = [await lease(pool) for _ in range(9)]
    waiting = await lease(pool, ahead_ms=5_000)
    await pool.settle(
        spent[-1], refused(1, Scope.ACCOUNT_MODEL, ObservedLimit(Dimension.RPM, 60, 0))
    )
    clock.tick(waiting.wait_ms)
    longer = await pool.confirm(waiting)
    assert longer is not None
    assert longer.wait_ms == pytest.approx(1_000, abs=50), "one call had no room"
    clock.tick(longer.wait_ms)
    assert getattr(await pool.confirm(waiting), "wait_ms", None) == 0


async def test_a_key_that_is_half_used_up_gives_way_to_fuller_ones(make_pool: Make) -> None:
    pool = make_pool(3)
    for left in (20, 60, 60):
        taken = await lease(pool)
        await pool.settle(taken, rpm(60, left))
        if left == 20:
            low = taken.account
    picked = [(await lease(pool)).account for _ in range(12)]
    assert low not in picked
    assert len(set(picked)) == 2


async def test_two_hundred_at_once_take_exactly_what_is_there(make_pool: Make) -> None:
    pool, other = make_pool(1), make_pool(1, horizon_ms=0)
    await pool.settle(await lease(pool), rpm(6_000, 75))
    outcomes = await asyncio.gather(
        *((pool if n % 2 else other).acquire(LeaseRequest()) for n in range(200))
    )
    assert 73 <= sum(isinstance(outcome, Lease) for outcome in outcomes) <= 75


async def test_a_changed_limit_keeps_what_a_refusal_has_shown(
    make_pool: Make, clock: ManualClock
) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(60, 10))
    spent = [await lease(pool) for _ in range(9)]
    waiting = await lease(pool, ahead_ms=5_000)
    refusal = refused(1, Scope.ACCOUNT_MODEL, ObservedLimit(Dimension.RPM, 60, 0))
    await pool.settle(spent.pop(), refusal)
    await pool.settle(spent.pop(), rpm(120, 0))
    left = await remaining(pool)
    await pool.settle(spent.pop(), ABANDONED)
    assert await remaining(pool) == left, "the refusal did not include calls in flight"
    clock.tick(waiting.wait_ms)
    longer = await pool.confirm(waiting)
    assert longer is not None
    assert longer.wait_ms == pytest.approx(500, abs=50), (
        "one call had no room, at two calls a second now"
    )


async def test_a_raised_limit_in_a_header_makes_the_pool_try_the_others_at_once(
    make_pool: Make,
) -> None:
    pool = make_pool(1)
    day, minute = ObservedLimit(Dimension.RPD, 1_000, 900), ObservedLimit(Dimension.RPM, 60, 0)
    early = await lease(pool)
    await pool.settle(await lease(pool), replace(OK, limits=(day,)))
    await pool.settle(early, refused(1, Scope.KEY, minute))
    await pool.reset(by="ann")
    assert (await no_lease(pool)).reason == "rpm"
    other = await lease(pool, model="n")
    await pool.settle(other, replace(OK, limits=(day,)))
    assert (await no_lease(pool)).reason == "rpm", "the header is of another model"
    late = ObservedLimit(Dimension.RPD, 500_000, 499_000)
    ahead = await lease(pool, ahead_ms=5_000)
    await pool.settle(ahead, replace(OK, limits=(late,)))
    assert (await lease(pool)).wait_ms == 0, "the account has a larger plan"
