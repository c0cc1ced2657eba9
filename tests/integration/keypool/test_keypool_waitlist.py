"""Jobs that wait for a key.

Within the horizon each gets its own instant, in the order of arrival over all processes.
"""

import heapq
from itertools import pairwise

import pytest
from redis.asyncio import Redis

from tests.integration.keypool.conftest import ManualClock
from tests.integration.keypool.keypool_asking import (
    OK,
    Make,
    ask,
    lease,
    limited,
    no_lease,
    refused,
)
from worker.keypool import HORIZON_MS, KeyPool, Lease, LeaseRequest, Line, NoLeaseReason
from worker.verdicts import ABANDONED, Scope


class Processes:
    """Processes, each with a line of jobs, which ask at the instants that the pool names."""

    def __init__(self, pool: KeyPool, clock: ManualClock) -> None:
        self.pool, self.clock = pool, clock
        self.due: list[tuple[int, int, str]] = []  # when a line asks, a number, its name
        self.jobs: dict[str, list[int]] = {}  # when the jobs of a line came
        self.entered: set[str] = set()
        self.starts: list[tuple[int, int]] = []  # when a job is served, and when it came
        self.asks = 0
        pool.horizon_ms = HORIZON_MS

    def come(self, line: str, *came_ms: int) -> None:
        self.jobs.setdefault(line, []).extend(came_ms)
        heapq.heappush(self.due, (came_ms[0], len(self.due), line))

    async def run(self, until_ms: int) -> None:
        while self.due and self.due[0][0] <= until_ms:
            at_ms, _, line = heapq.heappop(self.due)
            self.clock.ms = max(self.clock.ms, at_ms)
            again_ms = await self._ask(line)
            if self.jobs[line]:
                heapq.heappush(self.due, (again_ms, len(self.due) + self.asks, line))
        self.clock.ms = max(self.clock.ms, until_ms)

    async def _ask(self, line: str) -> int:
        jobs = self.jobs[line]
        while jobs:
            self.asks += 1
            after = self.clock.ms - jobs[1] if len(jobs) > 1 else None
            standing = Line("m", line, next_waited_ms=after, entered=line in self.entered)
            outcome = await self.pool.acquire(
                LeaseRequest(by=line, waited_ms=self.clock.ms - jobs[0]), standing
            )
            if not isinstance(outcome, Lease):
                assert outcome.why is NoLeaseReason.WAIT
                self.entered.add(line)
                return self.clock.ms + outcome.ask_in_ms
            self.starts.append((self.clock.ms + outcome.wait_ms, jobs.pop(0)))
            if not jobs:
                self.entered.discard(line)
            await self.pool.settle(outcome, OK)
        return self.clock.ms

    def passed(self) -> int:
        """The largest number of later jobs that were served before an earlier one."""
        order = [came for _, came in sorted(self.starts)]
        return max(position - sorted(order).index(came) for position, came in enumerate(order))


async def test_each_call_has_an_instant_of_its_own_within_the_horizon(make_pool: Make) -> None:
    pool = await limited(make_pool, 600)
    waits = []
    while isinstance(outcome := await ask(pool, ahead_ms=2_000), Lease):
        waits.append(outcome.wait_ms)
    assert [later - sooner for sooner, later in pairwise(waits)] == [100] * (len(waits) - 1)
    assert waits[-1] <= 2_000 < waits[-1] + 100
    assert (outcome.why, outcome.reason) == (NoLeaseReason.WAIT, "rpm")
    assert 0 < outcome.ask_in_ms <= 500
    assert 2_000 < outcome.first_in_ms <= 2_100


async def test_a_hundred_processes_are_served_in_order_and_ask_rarely(
    make_pool: Make,
    redis: Redis,
    clock: ManualClock,
) -> None:
    pool = await limited(make_pool, 60)  # one call a second
    began_ms, processes = clock.ms, Processes(pool, clock)
    for number in range(100):
        processes.come(f"line {number:02}", began_ms + 10 * number)
    await redis.config_resetstat()
    await processes.run(began_ms + 101_000 - HORIZON_MS)
    stats = await redis.info("commandstats")
    commands = sum(counts["calls"] for counts in stats.values())
    assert len(processes.starts) >= 98, "almost no call is wasted"
    assert processes.passed() <= 2
    assert commands / 100 <= 300


async def test_jobs_of_a_long_line_are_not_passed_by_younger_jobs_of_other_lines(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = await limited(make_pool, 600)
    began_ms, processes = clock.ms, Processes(pool, clock)
    processes.come("old", *range(began_ms, began_ms + 80))
    processes.come("young", *range(began_ms + 3_000, began_ms + 3_040))
    processes.come("younger", *range(began_ms + 6_000, began_ms + 6_040))
    await processes.run(began_ms + 17_500)
    assert len(processes.starts) == 160
    assert max(processes.starts)[0] - began_ms < 17_000, "ten calls a second"
    assert processes.passed() <= 20


async def test_a_line_behind_two_others_waits_for_them(make_pool: Make) -> None:
    pool = await limited(make_pool, 60)
    while isinstance(await ask(pool, ahead_ms=2_000), Lease):
        pass
    for number in range(2):
        await no_lease(pool, line=Line("m", f"line {number}"), waited_ms=5_000)
    third = await no_lease(pool, line=Line("m", "line 2"), waited_ms=4_500)
    assert (third.why, third.reason) == (NoLeaseReason.WAIT, "earlier jobs come first")
    assert third.first_in_ms == 0, "the keys were not read"
    assert third.ask_in_ms == 1_000, "at one call a second, one of the two lines is served by then"
    older = await no_lease(pool, line=Line("m", "line 3"), waited_ms=6_000)
    assert older.reason == "rpm", "the job that has waited longest is first, in any process"


async def test_a_process_that_died_delays_no_other(
    make_pool: Make, redis: Redis, clock: ManualClock
) -> None:
    pool = await limited(make_pool, 600)
    for number in range(50):
        await no_lease(pool, line=Line("m", f"dead {number}"), waited_ms=60_000)
    alive = Line("m", "alive")
    assert (await no_lease(pool, line=alive)).reason == "earlier jobs come first"
    async with redis.pubsub() as channel:
        await channel.subscribe(pool.names.wake)
        clock.tick(5_000)
        assert (await lease(pool, line=alive, waited_ms=5_000)).wait_ms == 0
        messages = [await channel.get_message(timeout=5) for _ in range(2)]
        assert messages[1] is not None
        assert messages[1]["data"] == "room", (
            "the lines behind need not wait until their time is over"
        )
    assert await redis.zcard(pool.names.waiting("m")) <= 1


async def test_a_line_that_finds_those_in_front_dead_wakes_the_others(
    make_pool: Make,
    redis: Redis,
    clock: ManualClock,
) -> None:
    pool = await limited(make_pool, 6)
    for number in range(3):
        await no_lease(pool, line=Line("m", f"dead {number}"), waited_ms=60_000)
    await no_lease(pool, line=Line("m", "second"), waited_ms=9_000)
    clock.tick(1_900)
    await no_lease(pool, line=Line("m", "second"), waited_ms=11_000)
    async with redis.pubsub() as channel:
        await channel.subscribe(pool.names.wake)
        await channel.get_message(timeout=5)
        clock.tick(1_500)
        await ask(pool, line=Line("m", "third"), waited_ms=5_000)
        message = await channel.get_message(timeout=5)
        assert message is not None
        assert message["data"] == "room"


async def test_a_line_that_was_served_leaves_the_wait_list(
    make_pool: Make,
    redis: Redis,
    clock: ManualClock,
) -> None:
    pool = await limited(make_pool, 600)
    await no_lease(pool, line=Line("m", "one"))
    clock.tick(1_000)
    await lease(pool, line=Line("m", "one", next_waited_ms=900, entered=True), waited_ms=1_000)
    assert await redis.zrange(pool.names.waiting("m"), 0, -1, withscores=True) == [
        ("one", clock.ms - 900)
    ]
    await lease(pool, line=Line("m", "one", entered=True), waited_ms=900)
    assert not await redis.exists(pool.names.waiting("m"), pool.names.waiting("m") + ":due")


async def test_an_abandoned_lease_wakes_the_jobs_that_wait(make_pool: Make, redis: Redis) -> None:
    pool = await limited(make_pool, 600)
    async with redis.pubsub() as channel:
        await channel.subscribe(pool.names.wake)
        taken = await lease(pool, ahead_ms=2_000)
        await pool.settle(taken, ABANDONED)
        await channel.get_message(timeout=5)
        message = await channel.get_message(timeout=5)
        assert message is not None
        assert message["data"] == "room"


async def test_a_job_waits_for_a_short_rest_and_a_long_one_is_reported(
    make_pool: Make,
    clock: ManualClock,
) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), refused(4_000))
    assert (await no_lease(pool, ahead_ms=2_000)).why is NoLeaseReason.WAIT
    clock.tick(2_100)
    assert 1_800 <= (await lease(pool, ahead_ms=2_000)).wait_ms <= 2_000
    clock.tick(2_000)
    await pool.settle(await lease(pool), refused(30_000))
    away = await no_lease(pool, ahead_ms=2_000)
    assert (away.why, away.first_in_ms) == (NoLeaseReason.RESTING, 30_000)


async def test_during_a_rest_each_line_asks_again_when_the_first_one_does(make_pool: Make) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), refused(1_500))
    waits = [
        await no_lease(
            pool, line=Line("m", f"line {number}"), by=f"line {number}", waited_ms=waited
        )
        for number, waited in enumerate((30, 20, 10))
    ]
    assert [wait.ask_in_ms for wait in waits] == [1_500] * 3


async def test_after_a_rest_those_who_waited_longest_come_first(
    make_pool: Make, clock: ManualClock
) -> None:
    pool = await limited(make_pool, 600)
    began_ms, processes = clock.ms, Processes(pool, clock)
    for number in range(4):
        processes.come(f"line {number}", *range(began_ms + number, began_ms + 200, 4))
    await processes.run(began_ms + 5_000)
    held = await lease(pool, ahead_ms=10_000)
    await pool.settle(held, refused(3_000, Scope.ACCOUNT_MODEL))
    pool.horizon_ms = HORIZON_MS
    await processes.run(began_ms + 26_000)
    assert len(processes.starts) == 200
    assert max(processes.starts)[0] - began_ms < 25_000, "20 s of calls, and the rest"
    assert processes.passed() <= 60


@pytest.mark.parametrize("step_ms", [-600_000, -3_000, 3_000, 600_000])
async def test_a_step_of_redis_clock_changes_no_rate(
    make_pool: Make, clock: ManualClock, step_ms: int
) -> None:
    steps_ms = [0]
    pool = await limited(
        make_pool, 600, now_ms=lambda: clock.ms + steps_ms[-1], own_ms=lambda: clock.ms
    )
    await pool.snapshot()
    processes = Processes(pool, clock)
    processes.come("line", *range(clock.ms, clock.ms + 100))
    await processes.run(clock.ms + 5_000)
    before = len(processes.starts)
    steps_ms.append(step_ms)
    await processes.run(clock.ms + 3_000)
    assert 30 <= len(processes.starts) - before <= 31
