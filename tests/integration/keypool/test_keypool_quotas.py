"""Quotas of emails.

They are learned at their end, full again the next day, and forgotten when they may have changed.
"""

import os
import random
from collections import Counter
from dataclasses import replace

import pytest

from tests.integration.keypool.conftest import ManualClock
from tests.integration.keypool.keypool_asking import OK, Make, ask, lease, no_lease, refused
from worker.keypool import KeyPool, Lease
from worker.keypool.forecast import CallCost, Forecast
from worker.keypool.leases import NoLeaseReason
from worker.verdicts import ABANDONED, Dimension, Fate, ObservedLimit, Scope, SeenQuota, Verdict

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
TO_MIDNIGHT_MS = 16 * HOUR_MS  # by the tests' clock
RATE = (ObservedLimit(Dimension.RPS, 1_000, 999),)  # the rate is known and delays no call


def used(count: int, dimension: Dimension = Dimension.EMAILS_DAY) -> Verdict:
    return replace(OK, limits=RATE, quotas=(SeenQuota(dimension, count),))


def spent(
    count: int, dimension: Dimension = Dimension.EMAILS_DAY, *, rest_ms: int = TO_MIDNIGHT_MS
) -> Verdict:
    return replace(
        refused(rest_ms, Scope.ACCOUNT), quotas=(SeenQuota(dimension, count, spent=True),)
    )


async def known(pool: KeyPool, *, limit: int = 10) -> None:
    """Make a pool of one account learn its quota, which is then used up."""
    first, second = await lease(pool, emails=1), await lease(pool, emails=1)
    await pool.settle(first, used(limit))
    settled = await pool.settle(second, spent(limit))
    assert settled.learned == (f"epd={limit}",)


async def left(pool: KeyPool) -> dict[str, tuple[float, float]]:
    buckets = (await pool.snapshot()).keys[0].buckets
    return {
        bucket.dimension: (bucket.limit, bucket.remaining)
        for bucket in buckets
        if bucket.dimension != "rps"
    }


async def test_a_quota_is_learned_where_it_ends_and_whole_again_after_midnight(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(1)
    assert (await lease(pool, emails=1)).spare_emails is None
    await known(pool)
    assert await left(pool) == {"epd": (10, 0)}
    clock.tick(TO_MIDNIGHT_MS + 1_000)  # a provider's clock may be behind
    away = await no_lease(pool, emails=1)
    assert (away.why, away.first_in_ms) == (NoLeaseReason.RESTING, 59_000)
    view = await pool.snapshot()
    assert [bucket.full_in_ms for bucket in view.keys[0].buckets if bucket.dimension == "epd"] == [
        59_000
    ]
    # So long after midnight, an estimate does not mean the next midnight.
    assert Forecast(view, CallCost(emails=1)).call(1).in_s == pytest.approx(59, rel=0.01)
    clock.tick(59_000)
    assert (await lease(pool, emails=1)).spare_emails == 9
    assert await left(pool) == {"epd": (10, 9)}


async def test_the_day_after_no_call_is_made_that_would_be_refused(
    make_pool: Make, clock: ManualClock
) -> None:
    pool = make_pool(1)
    await known(pool)
    clock.tick(TO_MIDNIGHT_MS + 60_000)
    passed = []
    while isinstance(outcome := await ask(pool, emails=2), Lease):
        passed.append(outcome.spare_emails)
    assert passed == [8, 6, 4, 2, 0]
    assert outcome.why is NoLeaseReason.RESTING
    assert outcome.reason == "epd"
    assert 0.9 * DAY_MS < outcome.first_in_ms <= DAY_MS


async def test_jobs_that_wait_for_midnight_in_the_process_share_the_new_quota(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(1)
    await known(pool)
    clock.tick(TO_MIDNIGHT_MS + 57_000)
    passed = []
    while isinstance(outcome := await ask(pool, emails=1, ahead_ms=5_000), Lease):
        passed.append(outcome.wait_ms)
    assert passed == [3_000] * 10
    assert 0.9 * DAY_MS < outcome.first_in_ms <= DAY_MS + 3_000
    clock.tick(3_000)
    assert await left(pool) == {"epd": (10, 0)}
    assert 0.9 * DAY_MS < (await no_lease(pool, emails=1)).first_in_ms <= DAY_MS


@pytest.mark.parametrize("seed", [*range(12), 7_442])
async def test_no_day_has_more_than_its_quota_however_jobs_come_and_end(
    make_pool: Make,
    clock: ManualClock,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chance = random.Random(seed)  # noqa: S311 - the same days each time
    # The ids of leases spread the instants at which jobs poll again.
    monkeypatch.setattr(os, "urandom", random.Random(-seed - 1).randbytes)  # noqa: S311 - as above
    pool = make_pool(1, lease_ms=10 * DAY_MS)
    await known(pool)
    taken: Counter[int] = Counter()
    held: list[tuple[Lease, int]] = []
    waiting: list[tuple[int, int]] = []
    clock.tick(TO_MIDNIGHT_MS + 60_000)
    until_ms = clock.ms + 6 * DAY_MS  # after that it is learned anew
    while clock.ms < until_ms:
        clock.tick(chance.choice([0, 0, 0, 1_000, 57_000, HOUR_MS, 3 * HOUR_MS]))
        due = [job for job in waiting if job[0] <= clock.ms]
        if not due and len(waiting) > 8:
            continue
        _, emails = due[0] if due else (0, chance.randint(1, 4))
        waiting = [job for job in waiting if job not in due[:1]]
        outcome = await ask(pool, emails=emails, ahead_ms=chance.choice([0, 5_000]))
        if isinstance(outcome, Lease):
            day = (clock.ms + outcome.wait_ms - 60_000) // DAY_MS
            taken[day] += emails
            held.append((outcome, day))
        else:
            assert 0 < outcome.first_in_ms < 8 * DAY_MS
            waiting.append((clock.ms + outcome.first_in_ms, emails))
        if held and chance.random() < 0.7:
            ended, day = held.pop(chance.randrange(len(held)))
            if chance.random() < 0.05:
                await pool.settle(ended, ABANDONED)
                taken[day] -= ended.request.emails
            else:
                await pool.settle(ended, used(max(0, taken[(clock.ms - 60_000) // DAY_MS])))
    assert max(taken.values()) <= 10
    _, *whole_days, _ = (count for _, count in sorted(taken.items()))
    assert sum(whole_days) > 0.5 * 10 * len(whole_days), (
        "emails with four recipients do not always fit into the rest"
    )


async def test_emails_that_others_send_count_against_the_quota(
    make_pool: Make, clock: ManualClock
) -> None:
    pool = make_pool(1)
    await known(pool)
    clock.tick(TO_MIDNIGHT_MS + HOUR_MS)
    await pool.settle(await lease(pool, emails=1), used(7))
    assert await left(pool) == {"epd": (10, 3)}
    on_its_way = await lease(pool, emails=1)
    await pool.settle(await lease(pool, emails=1), used(8))  # the other call is not counted yet
    assert await left(pool) == {"epd": (10, 1)}
    await pool.settle(on_its_way, used(9))
    assert await left(pool) == {"epd": (10, 1)}


async def test_the_answer_to_yesterdays_call_does_not_change_todays_quota(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(1, lease_ms=HOUR_MS)
    await known(pool)
    await pool.reset(by="ann")
    await known(pool)
    clock.tick(TO_MIDNIGHT_MS + 60_000)
    await pool.settle(await lease(pool, emails=1), used(1))
    clock.tick(DAY_MS - 30_000)
    slow = await lease(pool, emails=1)
    clock.tick(60_000)
    await pool.settle(slow, used(10))
    assert await left(pool) == {"epd": (10, 10)}


async def test_the_refusal_of_an_email_to_several_bounds_the_quota(
    make_pool: Make,
) -> None:
    pool = make_pool(1)
    held = [await lease(pool, emails=5) for _ in range(3)]
    assert (await pool.settle(held[0], spent(8))).learned == ("epd=12",)
    assert (await pool.settle(held[1], spent(6))).learned == ("epd=10",)
    assert (await pool.settle(held[2], spent(9))).learned == ()
    assert await left(pool) == {"epd": (10, 1)}


@pytest.mark.parametrize("emails", [0, 1])
async def test_a_refusal_that_bounds_no_quota_teaches_none(make_pool: Make, emails: int) -> None:
    pool = make_pool(1)
    # An email that is sent again was charged before. A quota of zero is not a limit to plan with.
    await pool.settle(await lease(pool, emails=emails), spent(0 if emails else 50))
    assert await left(pool) == {}


async def test_a_quota_that_turns_out_to_be_larger_is_relearned(
    make_pool: Make, clock: ManualClock
) -> None:
    pool = make_pool(1)
    await known(pool)
    clock.tick(TO_MIDNIGHT_MS + HOUR_MS)
    held = await lease(pool, emails=1)
    await pool.settle(held, used(11))
    assert await left(pool) == {}


async def test_a_quota_that_the_provider_no_longer_mentions_is_forgotten(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(1)
    await known(pool)
    clock.tick(TO_MIDNIGHT_MS + HOUR_MS)
    first, second = await lease(pool, emails=1), await lease(pool, emails=1)
    await pool.settle(
        first, Verdict(Fate.SAME_ACCOUNT, "read_timeout", definite=False)
    )  # no answer stated it
    assert await left(pool) == {"epd": (10, 8)}
    await pool.settle(second, replace(OK, limits=RATE))
    assert await left(pool) == {}


async def test_forgetting_the_only_limit_leaves_no_bucket(
    make_pool: Make, clock: ManualClock
) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool, emails=1), spent(10))
    clock.tick(TO_MIDNIGHT_MS + HOUR_MS)
    await pool.settle(await lease(pool, emails=1), OK)
    assert (await pool.snapshot()).keys[0].buckets == ()


async def test_a_quota_is_relearned_after_some_days(make_pool: Make, clock: ManualClock) -> None:
    pool = make_pool(1)
    await known(pool)
    for _ in range(7):
        clock.tick(DAY_MS)
        assert await left(pool) == {"epd": (10, 10)}
        await pool.settle(await lease(pool, emails=1), used(1))
    clock.tick(HOUR_MS)
    await pool.settle(await lease(pool, emails=1), used(2))
    assert await left(pool) == {}


async def test_a_reset_forgets_the_quotas_that_were_learned(make_pool: Make) -> None:
    pool = make_pool(1)
    await known(pool)
    assert (await pool.reset(by="ann")).count == 1
    assert await left(pool) == {}
    assert (await lease(pool, emails=1)).spare_emails is None


async def test_a_monthly_quota_is_assumed_to_be_whole_each_day_until_an_answer_says_otherwise(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(1)
    held = await lease(pool, emails=1)
    await pool.settle(held, spent(3_000, Dimension.EMAILS_MONTH, rest_ms=DAY_MS))
    assert await left(pool) == {"epmo": (3_000, 0)}
    clock.tick(DAY_MS)
    assert await left(pool) == {"epmo": (3_000, 3_000)}
    await pool.settle(
        await lease(pool, emails=1), spent(3_000, Dimension.EMAILS_MONTH, rest_ms=DAY_MS)
    )
    assert await left(pool) == {"epmo": (3_000, 0)}
    clock.tick(DAY_MS)
    await pool.settle(await lease(pool, emails=1), used(1, Dimension.EMAILS_MONTH))
    assert await left(pool) == {"epmo": (3_000, 2_999)}


async def test_a_quota_that_was_configured_counts_what_is_used_and_stays(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(
        1, limits=(ObservedLimit(Dimension.EMAILS_DAY, 20), ObservedLimit(Dimension.RPS, 1_000))
    )
    held = await lease(pool, emails=1)
    assert held.spare_emails == 19
    await pool.settle(held, used(15))
    assert await left(pool) == {"epd": (20, 5)}
    await pool.settle(await lease(pool, emails=1), OK)
    await pool.reset(by="ann")
    assert await left(pool) == {"epd": (20, 4)}
    clock.tick(DAY_MS)
    assert await left(pool) == {"epd": (20, 20)}


async def test_an_email_too_large_for_every_quota_fails_with_the_largest(make_pool: Make) -> None:
    pool = make_pool(2, limits=(ObservedLimit(Dimension.EMAILS_DAY, 20),))
    away = await no_lease(pool, emails=21)
    assert (away.why, away.limit) == (NoLeaseReason.TOO_LARGE, 20)


async def test_bulk_waits_for_its_quota_too(make_pool: Make) -> None:
    pool = make_pool(
        1, limits=(ObservedLimit(Dimension.EMAILS_DAY, 2), ObservedLimit(Dimension.RPS, 1_000))
    )
    await lease(pool, emails=1, bulk=True)
    await lease(pool, emails=1)
    away = await no_lease(pool, emails=1, bulk=True, ahead_ms=5_000)
    assert (away.why, away.reason) == (NoLeaseReason.RESTING, "epd")
    assert away.first_in_ms >= 0.9 * TO_MIDNIGHT_MS


async def test_midnight_is_the_providers_although_the_pools_clock_is_ahead(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(1)
    await known(pool)
    clock.tick(-2 * HOUR_MS)  # Redis' clock was ahead and is corrected
    assert await left(pool) == {"epd": (10, 0)}
    clock.tick(TO_MIDNIGHT_MS + 30_000)
    assert await left(pool) == {"epd": (10, 0)}
    away = await no_lease(pool, emails=1)
    assert away.first_in_ms == pytest.approx(2 * HOUR_MS + 30_000, abs=1)
    clock.tick(2 * HOUR_MS + 30_000)
    assert await left(pool) == {"epd": (10, 10)}
