"""Edge cases of email quotas: the week, the day after next, and emails that join a call."""

from dataclasses import replace

import pytest

from tests.integration.keypool.conftest import ManualClock
from tests.integration.keypool.keypool_asking import OK, Make, ask, lease, refused
from worker.keypool import KeyPool
from worker.verdicts import ABANDONED, Dimension, ObservedLimit, Scope, SeenQuota, Verdict

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
TO_MIDNIGHT_MS = 16 * HOUR_MS  # by the tests' clock
RATE = ObservedLimit(Dimension.RPS, 1_000, 999)  # the rate is known and delays no call


def used(count: int) -> Verdict:
    return replace(OK, limits=(RATE,), quotas=(SeenQuota(Dimension.EMAILS_DAY, count),))


async def left(pool: KeyPool) -> tuple[float, float] | None:
    """Return the quota and what is left of it; None if it is not known."""
    buckets = (await pool.snapshot()).keys[0].buckets
    quotas = [(bucket.limit, bucket.remaining) for bucket in buckets if bucket.dimension == "epd"]
    return quotas[0] if quotas else None


@pytest.fixture
async def pool(make_pool: Make) -> KeyPool:
    """A pool that has learned that its quota of ten is used up."""
    pool = make_pool(1)
    spent = SeenQuota(Dimension.EMAILS_DAY, 10, spent=True)
    last, refused_ = await lease(pool, emails=1), await lease(pool, emails=1)
    await pool.settle(last, used(10))
    refusal = replace(refused(TO_MIDNIGHT_MS, Scope.ACCOUNT), quotas=(spent,))
    await pool.settle(refused_, refusal)
    return pool


@pytest.fixture
def configured(make_pool: Make) -> KeyPool:
    """A pool with a configured quota of twenty."""
    limits = (ObservedLimit(Dimension.EMAILS_DAY, 20), ObservedLimit(Dimension.RPS, 1_000))
    return make_pool(1, limits=limits, lease_ms=30_000)


async def test_a_quota_is_relearned_after_a_week_and_not_before(
    pool: KeyPool, clock: ManualClock
) -> None:
    clock.tick(7 * DAY_MS)
    await pool.settle(await lease(pool, emails=1), used(1))
    assert await left(pool) == (10, 9)
    clock.tick(1)
    await pool.settle(await lease(pool, emails=1), used(2))
    assert await left(pool) is None


async def test_emails_taken_from_the_quota_of_the_next_day_are_back_on_the_day_after(
    pool: KeyPool, clock: ManualClock
) -> None:
    clock.tick(TO_MIDNIGHT_MS + 57_000)
    for _ in range(10):
        assert (await lease(pool, emails=1, ahead_ms=5_000)).wait_ms == 3_000
    assert await left(pool) == (10, -10)
    clock.tick(3_000 + DAY_MS - 1)
    assert await left(pool) == (10, 0)
    clock.tick(1)
    assert await left(pool) == (10, 10)


# What is used of ten, and what is then known of the quota.
@pytest.mark.parametrize(("count", "known"), [(10, (10, 0)), (11, None)])
async def test_a_quota_of_which_more_is_used_than_there_was_is_a_larger_one(
    pool: KeyPool, clock: ManualClock, count: int, known: tuple[float, float] | None
) -> None:
    clock.tick(TO_MIDNIGHT_MS + HOUR_MS)
    await pool.settle(await lease(pool, emails=1), used(count))
    assert await left(pool) == known


async def test_emails_that_go_along_are_counted_with_their_call_and_come_back_with_it(
    configured: KeyPool, clock: ManualClock
) -> None:
    held, kept = await lease(configured, emails=1), await lease(configured, emails=2)
    assert (held.spare_emails, kept.spare_emails) == (19, 17)
    await configured.extend(held, 4)
    await configured.extend(kept, 3)
    assert await left(configured) == (20, 10)
    await configured.settle(held, ABANDONED)
    assert await left(configured) == (20, 15)
    await configured.extend(held, 4)
    assert await left(configured) == (20, 15), "the call has ended"
    clock.tick(29_999)
    await ask(configured)
    assert not (await configured.settle(kept, OK)).late, "the lease lasts as long as before"
    assert await left(configured) == (20, 15)


async def test_a_call_has_room_for_what_the_quota_has_left(configured: KeyPool) -> None:
    assert (await lease(configured, emails=20)).spare_emails == 0
    again = await lease(configured, emails=0)  # it is sent again, and was charged before
    await configured.settle(again, replace(OK, emails=3))
    assert await left(configured) == (20, 0)


async def test_the_emails_that_the_provider_counted_replace_the_estimate(
    configured: KeyPool,
) -> None:
    await configured.settle(await lease(configured, emails=5), replace(OK, emails=3))
    assert await left(configured) == (20, 17)
