"""Limits that count in a sliding window, as those of a second do."""

from dataclasses import replace

from tests.integration.keypool.keypool_asking import (
    OK,
    Make,
    lease,
)
from worker.verdicts import Dimension, Fate, ObservedLimit, Verdict


async def test_a_window_takes_its_limit_and_no_more_wherever_it_starts(
    make_pool: Make,
    clock,  # noqa: ANN001
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


async def test_a_call_that_is_held_up_on_its_way_counts_once(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    await pool.settle(await lease(pool), replace(OK, limits=(ObservedLimit(Dimension.RPS, 2, 1),)))
    clock.tick(5_000)
    both = [await lease(pool), await lease(pool)]
    clock.tick(60)
    for one in both:
        confirmed = await pool.confirm(one)
        assert confirmed is not None
        assert confirmed.wait_ms == 0
    assert (await lease(pool, ahead_ms=5_000)).wait_ms >= 1_000 - 60, (
        "and the next one waits for their window"
    )


async def test_where_calls_left_late_the_next_window_opens_later(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    limits = (ObservedLimit(Dimension.RPS, 2, 2),)
    await pool.settle(
        await lease(pool), Verdict(fate=Fate.DONE, code="ok", status=200, limits=limits)
    )
    clock.tick(2_000)
    crowd = [await lease(pool, ahead_ms=60_000) for _ in range(6)]
    first, second = crowd[2:4], crowd[4:]
    clock.tick(first[0].wait_ms + 80)  # their process was held up
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


async def test_what_is_left_of_a_window_is_shown(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    await pool.settle(await lease(pool), replace(OK, limits=(ObservedLimit(Dimension.RPS, 5, 4),)))
    clock.tick(5_000)

    async def left() -> float:
        [key] = (await pool.snapshot()).keys
        [bucket] = [one for one in key.buckets if one.dimension == "rps"]
        return bucket.remaining

    for remaining in (5, 4, 3):
        assert await left() == remaining
        await lease(pool)
    clock.tick(999)
    assert await left() == 2
    clock.tick(1)
    assert await left() == 5
