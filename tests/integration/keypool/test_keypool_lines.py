"""Who must wait: an instant of their own for those who wait here, promises to those who come back."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from heapq import heappop, heappush
from itertools import pairwise

import pytest
from keypool_asking import OK, Make, lease, nothing, refused, rpm

from worker.keypool import KeyPool, Lease, Want
from worker.keypool.leases import NO_TICKET, Why
from worker.verdicts import Dimension, Fate, ObservedLimit, Scope, Verdict


async def test_each_waiter_has_an_instant_of_its_own(make_pool: Make) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(600, 0))
    waits = [(await lease(pool, max_wait_ms=5_000)).wait_ms for _ in range(20)]
    assert [later - sooner for sooner, later in pairwise(waits)] == [100] * 19


async def test_the_deferred_are_spread_over_the_capacity_that_will_be_there(make_pool: Make) -> None:
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(600, 0))
    while isinstance(await pool.acquire(Want(max_wait_ms=1_000)), Lease):
        pass
    countdowns = [(await nothing(pool, max_wait_ms=1_000)).countdown_ms for _ in range(100)]
    steps = [later - sooner for sooner, later in pairwise(countdowns[1:])]
    assert all(94 <= step <= 100 for step in steps), "as close as calls fit, each a little early"
    assert 0 < 10_000 - countdowns[-1] + countdowns[0] <= 500 + 100, "never earlier than half of what it may wait here"


async def test_who_comes_new_does_not_pass_the_deferred(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(600, 0))
    for _ in range(50):
        await nothing(pool)
    clock.tick(2_000)
    assert (await nothing(pool, max_wait_ms=1_000)).why is Why.DEFERRED
    assert (await lease(pool, ticket=NO_TICKET, max_wait_ms=1_000)).wait_ms == 0


async def test_a_redeemed_ticket_makes_room_for_who_comes_new(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(600, 0))
    deferred = [await nothing(pool) for _ in range(40)]
    clock.tick(deferred[-1].countdown_ms)
    for one in deferred:
        await lease(pool, ticket=one.ticket, max_wait_ms=1_000)
    clock.tick(1_000)
    assert (await lease(pool)).wait_ms == 0


async def test_tickets_that_are_not_redeemed_hold_nobody_up_for_long(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(600, 0))
    last = [await nothing(pool) for _ in range(1_000)][-1]
    clock.tick(last.countdown_ms + 30_001)
    assert (await lease(pool)).wait_ms == 0


async def test_promises_are_spaced_by_what_jobs_use_not_by_what_they_reserve(make_pool: Make) -> None:
    pool = make_pool(1)
    ample, tight = (ObservedLimit(Dimension.TPM, 10**7),), (ObservedLimit(Dimension.TPM, 60_000, 0),)
    pace = ObservedLimit(Dimension.RPM, 100_000)
    for number in range(150):  # half of what is reserved is used
        limits = (*(tight if number == 149 else ample), pace)
        used_half = Verdict(fate=Fate.DONE, code="ok", status=200, limits=limits, tokens=500)
        await pool.settle(await lease(pool, tokens=1_000), used_half)
    first, *_, last = [await nothing(pool, tokens=1_000) for _ in range(11)]
    assert last.countdown_ms - first.countdown_ms == pytest.approx(10 * 500, abs=30)


async def test_jobs_that_come_without_a_promise_line_up_at_every_account(make_pool: Make) -> None:
    pool = make_pool(3)
    for rest_ms in (10_000, 11_000, 12_000):  # one of them always opens first
        taken = await lease(pool)
        await pool.settle(taken, refused(rest_ms, Scope.ACCOUNT_MODEL, ObservedLimit(Dimension.RPM, 60, 0)))
    lines: Counter[str] = Counter()
    for _ in range(30):
        away = await nothing(pool, ticket=NO_TICKET, max_wait_ms=2_000)
        lines[away.ticket.partition(" ")[2]] += 1
        last_ms = away.countdown_ms
    assert len(lines) == 3
    assert min(lines.values()) > 7
    assert last_ms < 25_000


async def test_lost_tickets_hold_nobody_up_for_long_although_others_line_up_behind_them(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(600, 0))
    lost = [await nothing(pool) for _ in range(2_000)]
    for _ in range(lost[-1].countdown_ms // 1_000 + 60):
        clock.tick(1_000)
        got = await pool.acquire(Want(max_wait_ms=1_000))
    assert isinstance(got, Lease)
    assert got.wait_ms == 0


async def test_answers_that_become_shorter_leave_no_promise_behind(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    limits = (ObservedLimit(Dimension.TPM, 30_000, 0), ObservedLimit(Dimension.RPM, 10**6))
    await pool.settle(await lease(pool, tokens=1_000), replace(OK, limits=limits, tokens=1_000))
    for ticket in [(await nothing(pool, tokens=1_000)).ticket for _ in range(100)]:
        clock.tick(2_000)
        await pool.settle(await lease(pool, tokens=1_000, ticket=ticket, max_wait_ms=5_000), replace(OK, tokens=100))
    assert (await lease(pool, tokens=1_000)).wait_ms == 0, "all are served, and the bucket is full"


class Queue:
    """Jobs that come back when they are told to, as a worker's do."""

    def __init__(self, pool: KeyPool, clock, jobs: int) -> None:  # noqa: ANN001
        self.pool, self.clock = pool, clock
        self.due = [(clock.ms + number // 10, number, "") for number in range(jobs)]
        self.starts: list[tuple[int, int]] = []

    async def work_off(self, *, until: Callable[[], bool] = lambda: False) -> None:
        while self.due and not until():
            due_ms, number, ticket = heappop(self.due)
            self.clock.ms = max(self.clock.ms, due_ms)
            got = await self.pool.acquire(Want(ticket=ticket, max_wait_ms=5_000, by=str(number)))
            if isinstance(got, Lease):
                self.starts.append((self.clock.ms + got.wait_ms, number))
                await self.pool.settle(got, OK)
            else:
                heappush(self.due, (self.clock.ms + got.countdown_ms, number, got.ticket))

    def passed(self) -> int:
        """By how many later ones a job was passed at most, beyond the earlier ones that it passed itself."""
        return max(place - number for place, (_, number) in enumerate(sorted(self.starts)))


async def test_no_job_of_a_long_line_is_passed_by_many(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(600, 0))
    queue, began_ms = Queue(pool, clock, 1_500), clock.ms
    await queue.work_off()
    assert max(queue.starts)[0] - began_ms < 152_000, "ten a second"
    assert queue.passed() <= 50, "what five seconds are worth, the longest wait in the process"


async def test_a_rest_delays_a_line_and_does_not_turn_it_over(make_pool: Make, clock) -> None:  # noqa: ANN001
    pool = make_pool(1)
    await pool.settle(await lease(pool), rpm(600, 0))
    queue, began_ms = Queue(pool, clock, 900), clock.ms
    await queue.work_off(until=lambda: len(queue.starts) == 300)
    await pool.settle(await lease(pool, ticket=NO_TICKET, max_wait_ms=60_000), refused(30_000))
    await queue.work_off()
    assert max(queue.starts)[0] - began_ms < 130_000, "90 s of calls, and the rest"
    assert queue.passed() <= 100
