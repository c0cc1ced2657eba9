"""Leases and pins: what is held, by whom, until when."""

import pytest
from keypool_asking import INVALID, OK, Make, lease, nothing, refused, rpm
from redis.asyncio import Redis

from worker.keypool import Lease, Want
from worker.keypool.leases import Why
from worker.verdicts import Fate, Verdict


async def test_the_lease_of_a_dead_worker_comes_back(make_pool: Make, clock, redis: Redis) -> None:  # noqa: ANN001
    pool = make_pool(1, lease_ms=30_000)
    dead = await lease(pool)
    clock.tick(30_001)
    assert (await lease(pool)).id != dead.id
    assert "lease_expired" in [entry["event"] for entry in await pool.audit()]
    assert await redis.hlen(pool.names.leased) == 1


async def test_a_late_settle_changes_no_count_but_teaches(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1, lease_ms=1_000)
    await pool.settle(await lease(pool), rpm(60, 60))
    late = await lease(pool)
    clock.tick(1_001)
    await pool.settle(await lease(pool), OK)
    flying = (await pool.snapshot()).keys[0].in_flight
    settled = await pool.settle(late, refused(5_000))
    assert settled.late
    assert settled.blocked
    assert (await pool.snapshot()).keys[0].in_flight == flying == 0


async def test_settling_twice_gives_back_once(make_pool: Make) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(60, 60))
    held = await lease(pool)
    await pool.settle(held, INVALID)
    await pool.reset(by="test")
    after = (await pool.snapshot()).keys[0].buckets[0].remaining
    await pool.settle(held, INVALID)
    assert (await pool.snapshot()).keys[0].buckets[0].remaining == pytest.approx(after, abs=0.01)


async def test_an_email_stays_with_its_account_until_it_surely_was_not_sent(make_pool: Make) -> None:
    pool = make_pool(3)
    first = await lease(pool, pin="job-1")
    again = await lease(pool, pin="job-1")  # a redelivery while the first call's outcome is open
    assert again.account == first.account
    assert again.pinned
    ambiguous = Verdict(fate=Fate.SAME_ACCOUNT, code="read_timeout", definite=False)
    await pool.settle(again, ambiguous)
    await pool.settle(first, refused(60_000))
    # The first call was surely refused, but the second may have been accepted meanwhile: the account stays.
    waiting = await nothing(pool, pin="job-1")
    assert waiting.why is Why.DEFERRED
    assert isinstance(await pool.acquire(Want(pin="job-2")), Lease)


async def test_an_email_moves_on_after_a_definite_refusal(make_pool: Make) -> None:
    pool = make_pool(2)
    first = await lease(pool, pin="job-1")
    await pool.settle(first, refused(60_000))
    second = await lease(pool, pin="job-1")
    assert second.account != first.account
    assert not second.pinned


async def test_an_email_whose_account_has_no_key_any_more_is_not_sent_elsewhere(make_pool: Make) -> None:
    pool = make_pool(2)
    first = await lease(pool, pin="job-1")
    pool.replace_keys([key for key in pool.keys if key.id != first.key.id])
    assert (await nothing(pool, pin="job-1")).why is Why.GONE


async def test_an_email_is_not_tried_again_when_its_idempotency_key_may_be_forgotten(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    first = await lease(pool, pin="job-1")
    await pool.settle(first, Verdict(fate=Fate.SAME_ACCOUNT, code="reset", definite=False))
    clock.tick(23 * 3_600_000 + 1)
    assert (await nothing(pool, pin="job-1")).why is Why.STALE


@pytest.mark.parametrize("verdict", [OK, Verdict(fate=Fate.SAME_ACCOUNT, code="read_timeout", definite=False)])
async def test_an_email_stays_with_its_account_although_its_pin_was_flushed(
    make_pool: Make, redis: Redis, verdict: Verdict
) -> None:
    pool = make_pool(3)
    first = await lease(pool, pin="job-1")
    await redis.flushall()
    await pool.settle(first, verdict)
    again = await lease(pool, pin="job-1")
    assert (again.account, again.pinned) == (first.account, True)
    assert await redis.pttl(pool.names.pin("job-1")) > 0
