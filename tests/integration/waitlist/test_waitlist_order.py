"""The order in which the jobs in the line of a process are served."""

import asyncio
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from tests.integration.waitlist.waitlist_line import MODEL, OK, Line, outcomes, resting, until
from worker.keypool import Lease, LeaseRequest, NoLease, NoLeaseReason
from worker.rotation import wait_queue
from worker.verdicts import Dimension, ObservedLimit


async def test_a_free_key_is_leased_at_once_and_no_job_enters_a_wait_list(line: Line) -> None:
    assert isinstance(await line.list.acquire(LeaseRequest(model=MODEL), longest_s=0), Lease)
    assert (line.asks, line.waiting(), await line.entries()) == (1, 0, (0, 0))


async def test_the_job_that_has_waited_longest_is_served_first(line: Line) -> None:
    await line.rest()
    waits_ms = {"new": 0, "oldest": 50_000, "old": 10_000, "newest": 0}
    jobs = [await line.stand(name, waited_ms=waited_ms) for name, waited_ms in waits_ms.items()]
    await line.back()
    assert {type(outcome) for outcome in await outcomes(*jobs)} == {Lease}
    assert line.log == ["oldest", "old", "new", "newest"]


async def test_tenants_are_served_in_turn(line: Line) -> None:
    await line.rest()
    jobs = [await line.stand(f"big {number}", tenant="big") for number in range(5)]
    jobs += [await line.stand(f"small {number}", tenant="small") for number in range(2)]
    jobs.append(await line.stand("nobody's"))
    await line.back()
    assert {type(outcome) for outcome in await outcomes(*jobs)} == {Lease}
    assert line.log == [
        "big 0", "small 0", "nobody's", "big 1", "small 1", "big 2", "big 3", "big 4",
    ]  # fmt: skip


async def test_only_the_first_asks_while_there_is_no_room(line: Line) -> None:
    await line.rest()
    jobs = [await line.stand(str(number)) for number in range(20)]
    assert line.asks == 1
    line.list.wake()
    await until(lambda: asyncio.sleep(0, line.asks == 2))
    await line.back()
    assert {type(outcome) for outcome in await outcomes(*jobs)} == {Lease}
    assert line.log == [str(number) for number in range(20)]


async def test_a_change_of_before_has_no_job_ask_twice(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wait_queue, "_SETTLE_S", 0)
    assert isinstance(await line.list.acquire(LeaseRequest(model=MODEL)), Lease)
    line.list.wake()
    await line.rest()
    asks = line.asks
    job = await line.stand("late")
    for _ in range(20):
        await asyncio.sleep(0)
    assert line.asks == asks + 1
    job.cancel()
    await outcomes(job)


async def test_a_small_job_passes_a_large_one_that_waits_for_its_tokens(line: Line) -> None:
    left = ObservedLimit(Dimension.TPM, 6_000, remaining=2_000)
    await line.pool.settle(await line.lease(), replace(OK, limits=(left,)))
    large = [await line.stand(f"large {number}", tokens=5_000) for number in range(2)]
    assert line.asks == 1, "the second job is as large"
    small = await line.stand("small", tokens=100)
    [outcome] = await outcomes(small)
    assert isinstance(outcome, Lease)
    assert line.waiting() == 2
    for job in large:
        job.cancel()
    await outcomes(*large)


@pytest.mark.parametrize("longest_s", [0, 0.05])
async def test_a_job_stands_in_line_no_longer_than_it_may(line: Line, longest_s: float) -> None:
    await line.rest()
    patient = await line.stand("patient")
    outcome = await line.list.acquire(LeaseRequest(model=MODEL), longest_s=longest_s)
    assert outcome == NoLease(NoLeaseReason.WAIT, reason="rate_limit")
    assert line.waiting() == 1
    await line.back()
    assert isinstance((await outcomes(patient))[0], Lease)


async def test_a_wake_up_that_comes_while_the_line_asks_is_not_lost(line: Line) -> None:
    await line.rest()
    job = await line.stand("waiting")
    line.come_back_while_it_asks()
    line.list.wake()
    assert isinstance((await outcomes(job))[0], Lease)


async def test_a_wake_up_that_comes_while_the_first_job_asks_is_not_lost(
    line: Line,
) -> None:
    await line.rest()
    line.come_back_while_it_asks()
    async with asyncio.timeout(10):
        assert isinstance(await line.list.acquire(LeaseRequest(model=MODEL)), Lease)


async def test_the_end_of_a_call_makes_room_if_limits_are_unknown(redis: Redis) -> None:
    line = Line(redis, opening=1)
    held = await line.lease()
    job = await line.stand("waiting")
    await line.pool.settle(held, OK)
    line.list.notify_ended()
    assert isinstance((await outcomes(job))[0], Lease)


async def test_a_long_rest_is_reported_to_every_job_in_line(redis: Redis) -> None:
    line = Line(redis, patience_ms=5_000)
    pressed: list[float] = []
    line.list.demand.on_full = lambda: pressed.append(line.list.demand.resting_s())
    late = await line.lease()
    await line.rest(4_000)
    jobs = [await line.stand(str(number), tokens=10 + number % 2) for number in range(6)]
    assert (line.asks, pressed) == (1, [])
    await line.pool.settle(late, resting(60_000))
    line.list.wake()
    no_leases = await outcomes(*jobs)
    assert {no_lease.why for no_lease in no_leases} == {NoLeaseReason.RESTING}
    assert all(55_000 < no_lease.first_in_ms <= 60_000 for no_lease in no_leases)
    assert line.asks == 2
    assert (line.waiting(), len(pressed)) == (0, 1)
    assert 50 < pressed[0] <= 60
    assert 50 < line.list.demand.resting_s() <= 60
    line.list.wake()
    assert line.list.demand.resting_s() == 0


async def test_a_line_that_is_empty_leaves_its_wait_list(line: Line) -> None:
    await line.rest()
    served, stopped = await line.stand("served"), await line.stand("stopped", bulk=True)
    line.list.wake()
    await until(lambda: _entered(line, (1, 1)))
    await until(lambda: _entered(line, (1, 1), f"{MODEL} bulk"))
    stopped.cancel()
    await line.back()
    await outcomes(served, stopped)
    await until(lambda: _entered(line, (0, 0)))
    await until(lambda: _entered(line, (0, 0), f"{MODEL} bulk"))


async def _entered(line: Line, expected: tuple[int, int], wait_list: str = MODEL) -> bool:
    return await line.entries(wait_list) == expected


async def test_a_job_that_excludes_keys_enters_no_wait_list(line: Line) -> None:
    await line.rest()
    waiting = asyncio.create_task(
        line.list.acquire(LeaseRequest(model=MODEL, exclude=frozenset({"x"})), in_turn=False)
    )
    await until(lambda: asyncio.sleep(0, line.waiting() == 1))
    assert not [name async for name in line.redis.scan_iter("*:waiting:*")]
    await line.back()
    assert isinstance((await outcomes(waiting))[0], Lease)


async def test_while_tenants_take_turns_a_process_holds_few_jobs(line: Line) -> None:
    for _ in range(40):
        await line.list.acquire(LeaseRequest(model=MODEL))
    assert line.list.demand.capacity() == 40
    await line.list.acquire(LeaseRequest(model=MODEL, tenant="one"))
    assert line.list.demand.capacity() <= 32


async def test_capacity_is_what_was_served_within_the_horizon_and_jobs_that_fill_it_press(
    line: Line,
) -> None:
    pressed: list[int] = []
    line.list.demand.on_full = lambda: pressed.append(line.waiting())
    assert line.list.demand.capacity() == 8
    for _ in range(10):
        await line.list.acquire(LeaseRequest(model=MODEL))
    assert line.list.demand.capacity() == 10
    await line.rest()
    for number in range(9):
        await line.stand(str(number), bulk=True)
    jobs = [await line.stand(str(number)) for number in range(9)]
    assert (line.list.demand.count(bulk=True), line.list.demand.count(bulk=False), pressed) == (
        9,
        9,
        [],
    )
    jobs.append(await line.stand("the last"))
    assert pressed == [19]
    await line.back()
    assert {type(outcome) for outcome in await outcomes(*jobs)} == {Lease}
