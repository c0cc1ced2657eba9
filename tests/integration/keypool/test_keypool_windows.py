"""Limits that count in a sliding window, like the limits of a second."""

import random
from dataclasses import replace

import pytest

from tests.integration.keypool.conftest import ManualClock
from tests.integration.keypool.keypool_asking import (
    OK,
    Make,
    ask,
    lease,
    remaining,
)
from worker.keypool import Lease
from worker.verdicts import ABANDONED, Dimension, Fate, ObservedLimit, Verdict

SPAN_MS = 1_012  # a second, and by how much closer together calls may arrive


async def test_a_window_takes_its_limit_and_no_more_wherever_it_starts(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(1)
    limits = (ObservedLimit(Dimension.RPS, 5, 4),)
    await pool.settle(
        await lease(pool), Verdict(fate=Fate.DONE, code="ok", status=200, limits=limits)
    )
    clock.tick(1_100)
    starts = [(await lease(pool, ahead_ms=60_000)).wait_ms for _ in range(50)]
    assert starts[:5] == [0] * 5
    for first, sixth in zip(starts, starts[5:], strict=False):
        assert sixth - first > 1_000
    assert starts[-1] <= 9 * 1_030


async def test_calls_that_left_before_their_window_was_known_count_in_it(make_pool: Make) -> None:
    pool = make_pool(1)
    early = [await lease(pool) for _ in range(4)]
    limits = (ObservedLimit(Dimension.RPS, 5, 4),)
    await pool.settle(early[0], Verdict(fate=Fate.DONE, code="ok", status=200, limits=limits))
    waits = [(await lease(pool, ahead_ms=60_000)).wait_ms for _ in range(2)]
    assert waits[0] == 0
    assert 1_000 < waits[1] < 1_100


async def test_a_call_that_is_held_up_on_its_way_counts_once(
    make_pool: Make, clock: ManualClock
) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), replace(OK, limits=(ObservedLimit(Dimension.RPS, 2, 1),)))
    clock.tick(5_000)
    both = [await lease(pool), await lease(pool)]
    clock.tick(60)
    for held in both:
        confirmed = await pool.confirm(held)
        assert confirmed is not None
        assert confirmed.wait_ms == 0
    assert (await lease(pool, ahead_ms=5_000)).wait_ms >= 1_000 - 60, (
        "the next call waits for the end of their window"
    )


async def test_if_calls_left_late_the_next_window_opens_later(
    make_pool: Make, clock: ManualClock
) -> None:
    pool = make_pool(1)
    limits = (ObservedLimit(Dimension.RPS, 2, 2),)
    await pool.settle(
        await lease(pool), Verdict(fate=Fate.DONE, code="ok", status=200, limits=limits)
    )
    clock.tick(2_000)
    crowd = [await lease(pool, ahead_ms=60_000) for _ in range(6)]
    first, second = crowd[2:4], crowd[4:]
    clock.tick(first[0].wait_ms + 80)  # their process was delayed
    for held in first:
        confirmed = await pool.confirm(held)
        assert confirmed is not None
        assert confirmed.wait_ms == 0
    clock.tick(second[0].wait_ms - first[0].wait_ms - 80)
    for held in second:
        confirmed = await pool.confirm(held)
        assert confirmed is not None
        assert confirmed.wait_ms == 80
    clock.tick(80)
    assert [left.wait_ms for held in second if (left := await pool.confirm(held))] == [0, 0]


async def test_what_is_left_of_a_window_is_shown(make_pool: Make, clock: ManualClock) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), replace(OK, limits=(ObservedLimit(Dimension.RPS, 5, 4),)))
    clock.tick(5_000)

    async def left() -> float:
        [key] = (await pool.snapshot()).keys
        [bucket] = [bucket for bucket in key.buckets if bucket.dimension == "rps"]
        return bucket.remaining

    for expected in (5, 4, 3):
        assert await left() == expected
        await lease(pool)
    clock.tick(999)
    assert await left() == 2
    clock.tick(1)
    assert await left() == 5


async def test_capacity_given_back_before_waiting_calls_is_used(
    make_pool: Make, clock: ManualClock
) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), replace(OK, limits=(ObservedLimit(Dimension.RPS, 5, 4),)))
    clock.tick(5_000)
    crowd = [await lease(pool, ahead_ms=60_000) for _ in range(15)]
    assert [held.wait_ms for held in crowd] == [0] * 5 + [SPAN_MS] * 5 + [2 * SPAN_MS] * 5
    clock.tick(600)
    for cancelled in crowd[5:10]:
        await pool.settle(cancelled, ABANDONED)
    waits = [(await lease(pool, ahead_ms=60_000)).wait_ms for _ in range(6)]
    assert waits == [SPAN_MS - 600] * 5 + [3 * SPAN_MS - 600]


@pytest.mark.parametrize("seed", range(4))
async def test_a_call_goes_at_the_first_instant_that_no_window_forbids(
    make_pool: Make,
    clock: ManualClock,
    seed: int,
) -> None:
    """Leases may be given back at any time; the test tries every possible instant."""
    chance, limit = random.Random(seed), 2 + seed  # noqa: S311 - no secret
    pool = make_pool(1)
    known = (ObservedLimit(Dimension.RPS, limit, limit),)
    await pool.settle(await lease(pool), replace(OK, limits=known))
    clock.tick(5_000)
    held: dict[Lease, int] = {}
    for _ in range(120):
        starts = sorted(held.values())
        ends = {clock.ms, *(start + SPAN_MS for start in starts if start + SPAN_MS > clock.ms)}
        first = min(ms for ms in ends if _fits([*starts, ms], limit))
        taken = await ask(pool, ahead_ms=60_000)
        assert isinstance(taken, Lease)
        assert clock.ms + taken.wait_ms == first
        held[taken] = first
        waiting = [held_lease for held_lease, start in held.items() if start > clock.ms]
        for given_back in chance.sample(waiting, chance.randint(0, min(2, len(waiting)))):
            await pool.settle(given_back, ABANDONED)
            del held[given_back]
        clock.tick(chance.choice((0, 0, 1, 300, 1_012)))


def _fits(starts: list[int], limit: int) -> bool:
    """Whether no window has `limit + 1` calls."""
    starts = sorted(starts)
    return all(
        later - start >= SPAN_MS for start, later in zip(starts, starts[limit:], strict=False)
    )


async def test_a_limit_raised_above_what_is_counted_call_by_call_refills_continuously(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(1)
    for limit in (5, 300):
        stated = (ObservedLimit(Dimension.RPS, limit),)
        await pool.settle(await lease(pool), replace(OK, limits=stated))
    assert await remaining(pool) < 300
    clock.tick(100)
    assert await remaining(pool) == 300, "calls of the last second are not counted one by one"
