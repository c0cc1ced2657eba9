"""Redis' clock is set, and Redis stands still, while calls go on: see `CallerClock`."""

import pytest
from redis.asyncio import Redis

from tests.integration.keypool.conftest import ManualClock
from tests.integration.keypool.keypool_asking import Make, ask, lease, no_lease, refused, rpm
from worker.keypool import KeyPool, Lease

MINUTE_MS = 60_000


class Machine:
    """A pool in a process: its own clock, which is never set, and Redis' clock, which all share."""

    def __init__(self, make_pool: Make, redis_clock: ManualClock) -> None:
        self.redis_clock, self.own_clock = redis_clock, ManualClock()
        self.pool: KeyPool = make_pool(1, own_ms=self.own_clock)

    def pass_time(self, ms: int) -> None:
        self.redis_clock.tick(ms)
        self.own_clock.tick(ms)


async def count_calls(pool: KeyPool) -> int:
    passed = 0
    while isinstance(await ask(pool), Lease):
        passed += 1
    return passed


@pytest.fixture
async def machine(make_pool: Make, clock: ManualClock) -> Machine:
    """A machine whose limit of 60 a minute has just been used up."""
    machine = Machine(make_pool, clock)
    await machine.pool.settle(await lease(machine.pool), rpm(60, 0))
    return machine


@pytest.mark.parametrize("step_ms", [3_000, 10 * MINUTE_MS, -3_000, -10 * MINUTE_MS])
async def test_a_clock_that_was_set_refills_as_if_it_had_not_been(
    machine: Machine, step_ms: int
) -> None:
    machine.redis_clock.tick(step_ms)
    assert await count_calls(machine.pool) == 0
    machine.pass_time(MINUTE_MS // 2)
    assert 28 <= await count_calls(machine.pool) <= 30
    machine.redis_clock.tick(-step_ms)
    assert await count_calls(machine.pool) == 0
    machine.pass_time(MINUTE_MS // 2)
    assert 28 <= await count_calls(machine.pool) <= 30


@pytest.mark.parametrize("step_ms", [10 * MINUTE_MS, -10 * MINUTE_MS])
async def test_a_rest_lasts_as_long_as_it_was_to_although_the_clock_is_set(
    make_pool: Make, clock: ManualClock, step_ms: int
) -> None:
    machine = Machine(make_pool, clock)
    await machine.pool.settle(await lease(machine.pool), refused(30_000))
    machine.pass_time(20_000)
    clock.tick(step_ms)
    assert (await no_lease(machine.pool)).first_in_ms == 10_000
    machine.pass_time(10_000)
    assert (await lease(machine.pool)).wait_ms == 0


async def test_buckets_refill_while_redis_stands_still(make_pool: Make, machine: Machine) -> None:
    """Requests sent before are served first; for them the clock seems to have been set."""
    other = Machine(make_pool, machine.redis_clock)
    await other.pool.snapshot()
    machine.redis_clock.tick(MINUTE_MS)
    assert await count_calls(machine.pool) == 0, "the call was sent before Redis stood still"
    other.own_clock.tick(MINUTE_MS)
    assert 58 <= await count_calls(other.pool) <= 60


async def test_times_that_people_read_follow_redis_clock(
    machine: Machine, redis: Redis, clock: ManualClock
) -> None:
    before_ms = (await machine.pool.snapshot()).now_ms
    clock.tick(10 * MINUTE_MS)
    view = await machine.pool.snapshot()
    assert (view.now_ms, view.redis_ms) == (before_ms, clock.ms)
    assert await machine.pool.disable(view.keys[0].id, by="alice", for_ms=5_000)
    [entry] = await machine.pool.audit(count=1)
    assert (int(entry["at_ms"]), int(entry["until_ms"])) == (clock.ms, clock.ms + 5_000)


# By how much Redis' clock is set forward, and how much of that counts as elapsed time.
@pytest.mark.parametrize(("step_ms", "passed_ms"), [(2_500, 2_500), (2_501, 0)])
async def test_a_request_may_be_in_progress_for_two_and_a_half_seconds(
    machine: Machine, step_ms: int, passed_ms: int
) -> None:
    before_ms = (await machine.pool.snapshot()).now_ms
    machine.redis_clock.tick(step_ms)
    assert (await machine.pool.snapshot()).now_ms - before_ms == passed_ms


# By how much it is set back, and how much time then passes for a process that does not know.
@pytest.mark.parametrize(("step_ms", "passed_ms"), [(-1_000, 0), (-1_001, 200)])
async def test_a_clock_that_was_set_back_by_over_a_second_is_no_longer_followed(
    make_pool: Make, machine: Machine, step_ms: int, passed_ms: int
) -> None:
    before_ms = (await machine.pool.snapshot()).now_ms
    machine.redis_clock.tick(step_ms)
    await machine.pool.snapshot()
    machine.pass_time(200)
    fresh = Machine(make_pool, machine.redis_clock)
    assert (await fresh.pool.snapshot()).now_ms - before_ms == passed_ms


# How long after the earlier call the clock was last read, before it is set back by ten minutes.
@pytest.mark.parametrize(("after_ms", "known_ms"), [(249, 0), (250, 250), (300, 300)])
async def test_the_pools_clock_never_runs_back_by_a_quarter_of_a_second(
    make_pool: Make, machine: Machine, after_ms: int, known_ms: int
) -> None:
    before_ms = (await machine.pool.snapshot()).now_ms
    machine.pass_time(after_ms)
    await machine.pool.snapshot()
    machine.redis_clock.tick(-10 * MINUTE_MS)
    fresh = Machine(make_pool, machine.redis_clock)
    assert (await fresh.pool.snapshot()).now_ms - before_ms == known_ms


async def test_while_redis_clock_is_behind_people_read_the_pools_own(machine: Machine) -> None:
    before_ms = (await machine.pool.snapshot()).now_ms
    machine.redis_clock.tick(-10 * MINUTE_MS)
    await machine.pool.disable(machine.pool.keys[0].id, by="alice", for_ms=5_000)
    [entry] = await machine.pool.audit(count=1)
    assert (int(entry["at_ms"]), int(entry["until_ms"])) == (before_ms, before_ms + 5_000)
