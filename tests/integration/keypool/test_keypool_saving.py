"""How much of a bucket is reserved for a large job, and how much small jobs may take."""

from dataclasses import replace

import pytest

from tests.integration.keypool.conftest import ManualClock
from tests.integration.keypool.keypool_asking import OK, Make, ask, lease, no_lease, rpm
from worker.keypool import KeyPool, Lease, Line
from worker.verdicts import Dimension, ObservedLimit

TPM, LARGE = 6_000, 4_000  # 100 tokens a second; with the margin a large job needs 4,060


async def with_tokens(make_pool: Make, left: float, *, requests: float = 100_000) -> KeyPool:
    pool = make_pool(1)
    limits = (ObservedLimit(Dimension.TPM, TPM, left), *rpm(100_000, requests).limits)
    await pool.settle(await lease(pool), replace(OK, limits=limits))
    return pool


# The tokens in the bucket, and those of the largest small job that passes a large one at once.
@pytest.mark.parametrize(
    ("left", "tokens"),
    [
        (1_000, 940),  # all tokens except the margin: they are less than half of what is needed
        (2_500, 1_500),
        (3_000, 1_000),  # as many as the large job lacks
        (4_000, 1),
    ],
)
async def test_of_the_tokens_left_small_jobs_may_take_as_much_as_a_large_one_lacks(
    make_pool: Make, left: int, tokens: int
) -> None:
    pool = await with_tokens(make_pool, left)
    await no_lease(pool, tokens=LARGE, by="large")
    too_many = 60 if tokens == 1 else tokens + 1
    assert isinstance(await ask(pool, tokens=too_many, by="small"), Lease) is False
    await lease(pool, tokens=tokens, by="small")


async def test_half_of_the_refill_is_saved(make_pool: Make, clock: ManualClock) -> None:
    pool = await with_tokens(make_pool, 0)
    await no_lease(pool, tokens=LARGE, by="large")
    assert (await no_lease(pool, tokens=100, by="small")).first_in_ms == 3_200
    clock.tick(20_000)
    await no_lease(pool, tokens=941, by="small")
    await lease(pool, tokens=940, by="small")


async def test_tokens_saved_for_a_job_do_not_keep_that_job_waiting(make_pool: Make) -> None:
    pool = await with_tokens(make_pool, 0)
    await no_lease(pool, tokens=LARGE, by="large")
    assert (await no_lease(pool, tokens=100, by="large")).first_in_ms == 1_600


# Whether the first and the second job that ask are bulk jobs, by how much longer the second has
# waited, and for which of them the refill is saved.
@pytest.mark.parametrize(
    ("bulk", "earlier_ms", "saved_for"),
    [
        ((False, False), 0, 0),
        ((False, False), 1, 1),
        ((True, False), 0, 1),
        ((False, True), 1, 0),
        ((True, True), 0, 0),
        ((True, True), 1, 1),
    ],
)
async def test_tokens_are_saved_for_interactive_jobs_first_and_then_for_the_earliest(
    make_pool: Make,
    clock: ManualClock,
    *,
    bulk: tuple[bool, bool],
    earlier_ms: int,
    saved_for: int,
) -> None:
    pool = await with_tokens(make_pool, 0)
    for number, waited_ms in enumerate((0, earlier_ms)):
        await no_lease(
            pool, tokens=LARGE, by=f"job {number}", bulk=bulk[number], waited_ms=waited_ms
        )
    clock.tick(41_000)
    other = 1 - saved_for
    assert not isinstance(await ask(pool, tokens=LARGE, by=f"job {other}", bulk=bulk[other]), Lease)
    await lease(pool, tokens=LARGE, by=f"job {saved_for}", bulk=bulk[saved_for])


# The tokens of a job that may reserve two seconds ahead, and when a small job then has room.
@pytest.mark.parametrize(("tokens", "first_in_ms"), [(200, 1_600), (201, 3_200)])
async def test_a_job_is_large_if_its_tokens_refill_beyond_the_horizon(
    make_pool: Make, tokens: int, first_in_ms: int
) -> None:
    pool = await with_tokens(make_pool, 0)
    await no_lease(pool, tokens=tokens, by="large", ahead_ms=2_000)
    assert (await no_lease(pool, tokens=100, by="small")).first_in_ms == first_in_ms


@pytest.mark.parametrize("left", [TPM, 4_060])
async def test_nothing_is_saved_of_tokens_for_a_job_that_waits_for_something_else(
    make_pool: Make, clock: ManualClock, left: int
) -> None:
    pool = await with_tokens(make_pool, left, requests=0)
    assert (await no_lease(pool, tokens=LARGE, by="large")).reason == "rpm"
    clock.tick(100)
    await lease(pool, tokens=3_000, by="small")


async def test_nothing_is_saved_for_a_request_that_names_no_job(make_pool: Make) -> None:
    pool = await with_tokens(make_pool, 0)
    await no_lease(pool, tokens=LARGE)
    assert (await no_lease(pool, tokens=100, by="small")).first_in_ms == 1_600


# Whether the job is in a line, how long ago it asked, and whether the refill is still saved for it.
@pytest.mark.parametrize(
    ("in_line", "after_ms", "saved"),
    [
        (True, 5_000, True),
        (True, 5_001, False),  # its process has died
        (False, 40_600 + 30_000, True),  # half a minute after it would have had room
        (False, 40_600 + 30_001, False),
    ],
)
async def test_tokens_saved_for_a_job_that_does_not_come_are_released(
    make_pool: Make, clock: ManualClock, *, in_line: bool, after_ms: int, saved: bool
) -> None:
    pool = await with_tokens(make_pool, 0)
    line = Line("any", "first") if in_line else None
    assert (await no_lease(pool, tokens=LARGE, by="large", line=line)).first_in_ms == 40_600
    clock.tick(after_ms)
    most = min(TPM, after_ms // 10) - 60
    assert isinstance(await ask(pool, tokens=most, by="other"), Lease) is not saved
