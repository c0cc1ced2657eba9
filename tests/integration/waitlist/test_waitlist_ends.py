"""Jobs leave the line of a process without a lease.

They are stopped, Redis is down, or the worker ends.
"""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from sandbox.redis import EmbeddedRedis
from tests.integration.waitlist.waitlist_line import MODEL, Line, outcomes, until
from worker.aio.errors import Revoked
from worker.errors import Deferred
from worker.keypool import Lease, LeaseRequest, NoLease
from worker.redis import retry
from worker.rotation import wait_queue


async def test_a_job_that_is_stopped_in_line_leaves_it_and_delays_no_other(line: Line) -> None:
    await line.rest()
    first, second = await line.stand("first"), await line.stand("second")
    first.cancel()
    await line.back()
    stopped, served = await outcomes(first, second)
    assert isinstance(stopped, asyncio.CancelledError)
    assert isinstance(served, Lease)
    assert await line.leases_out() == 1


async def test_a_job_that_is_cancelled_in_line_ends_at_once_and_no_other_does(line: Line) -> None:
    await line.rest()
    jobs = [await line.stand(name) for name in "abc"]
    line.list.cancel({"a", "c", "nobody"})
    for job in (jobs[0], jobs[2]):
        with pytest.raises(Revoked):
            await job
    assert line.waiting() == 1
    await line.back()
    assert isinstance((await outcomes(jobs[1]))[0], Lease)


async def test_a_job_that_is_stopped_while_its_lease_is_on_its_way_gives_it_back(
    line: Line,
) -> None:
    await line.rest()
    job = await line.stand("stopped")
    ask = line.ask

    async def on_the_way(*args: Any) -> Lease | NoLease:
        outcome = await ask(*args)
        job.cancel()
        await asyncio.wait({job})
        assert await line.leases_out() == 1
        return outcome

    line.ask = on_the_way
    await line.back()
    [stopped] = await outcomes(job)
    assert isinstance(stopped, asyncio.CancelledError)
    await until(lambda: _none(line.leases_out()))
    assert [key.in_flight for key in (await line.pool.snapshot()).keys] == [0]


async def _none(count: Any) -> bool:
    return await count == 0


async def test_a_job_that_is_stopped_in_the_moment_that_it_gets_a_lease_gives_it_back(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    await line.rest()
    job = await line.stand("stopped")
    deliver = wait_queue.WaitQueue.deliver

    def deliver_and_stop(*args: Any) -> bool:
        delivered = deliver(*args)
        job.cancel()
        return delivered

    monkeypatch.setattr(wait_queue.WaitQueue, "deliver", deliver_and_stop)
    await line.back()
    [stopped] = await outcomes(job)
    assert isinstance(stopped, asyncio.CancelledError)
    assert await line.leases_out() == 0


async def test_a_lease_that_no_job_takes_is_returned_when_redis_answers_again(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle, troubles = line.pool.settle, [RedisConnectionError("away"), OSError("away")]

    async def away_at_first(*args: Any) -> Any:
        if troubles:
            raise troubles.pop()
        return await settle(*args)

    for _ in range(len(troubles)):
        taken = await line.lease()
        monkeypatch.setattr(line.pool, "settle", away_at_first)
        await line.list._give_back(taken)
        await until(lambda: _none(line.leases_out()))
        assert await line.leases_out() == 0


async def test_jobs_that_are_stopped_in_the_moment_of_asking_do_not_hang_the_process(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wait_queue, "_SETTLE_S", 0)
    await line.rest()
    jobs = [await line.stand(str(number)) for number in range(wait_queue.SEARCHED + 1)]
    last = jobs.pop()
    line.list.wake()
    await asyncio.sleep(0)  # the line is about to ask, and the jobs will not have run by then
    for job in jobs:
        job.cancel()
    await line.back()
    *stopped, served = await outcomes(*jobs, last)
    assert {type(outcome) for outcome in stopped} == {asyncio.CancelledError}
    assert isinstance(served, Lease)


async def test_a_line_waits_for_a_redis_that_comes_back(
    own_server: EmbeddedRedis, own_redis: Redis
) -> None:
    line = Line(own_redis)
    await line.rest()
    jobs = [await line.stand(str(number)) for number in range(3)]
    own_server.stop()
    line.list.wake()
    await asyncio.to_thread(own_server.start)
    await line.back()
    assert {type(outcome) for outcome in await outcomes(*jobs)} == {Lease}


async def test_a_redis_that_stays_down_defers_each_job_with_an_error_of_its_own(
    own_server: EmbeddedRedis, own_redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "JOB", replace(retry.JOB, within_s=0.2))
    line = Line(own_redis)
    await line.rest()
    jobs = [await line.stand(str(number), tokens=10 - number) for number in range(3)]
    asks = line.asks
    own_server.stop()
    line.list.wake()
    errors = await outcomes(*jobs)
    assert {type(error) for error in errors} == {Deferred}
    assert len({id(error) for error in errors}) == 3
    assert all("Redis does not answer" in error.reason for error in errors)
    assert all(500 <= error.countdown_ms <= 1_500 for error in errors)
    assert line.waiting() == 0
    assert 0 < line.asks - asks < 10, "one job found it out for all"


async def test_a_bug_in_the_pool_comes_out_of_the_job_that_met_it_and_of_no_other(
    line: Line,
) -> None:
    await line.rest()
    jobs = [await line.stand(name) for name in ("odd", "second", "third")]
    ask = line.ask

    async def stumbling(lease_request: LeaseRequest, *args: Any) -> Lease | NoLease:
        if lease_request.by == "odd":
            raise ZeroDivisionError
        return await ask(lease_request, *args)

    line.ask = stumbling
    await line.back()
    odd, *others = await outcomes(*jobs)
    assert isinstance(odd, ZeroDivisionError)
    assert {type(outcome) for outcome in others} == {Lease}


async def test_a_bug_beside_the_lease_request_leaves_no_job_waiting(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    await line.rest()
    jobs = [await line.stand(str(number)) for number in range(3)]

    def stumble(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(line.list, "_note", stumble)
    await line.back()
    assert {type(outcome) for outcome in await outcomes(*jobs)} == {ZeroDivisionError}


async def test_no_job_waits_any_longer_once_the_worker_ends(line: Line) -> None:
    await line.rest()
    waiting = [await line.stand(name) for name in "ab"]
    line.list.close()
    late = await line.list.acquire(LeaseRequest(model=MODEL))
    assert {outcome.reason for outcome in [*await outcomes(*waiting), late]} == {
        "this worker shuts down"
    }
    await until(lambda: _is(line.entries(), (0, 0)))


async def _is(value: Any, expected: Any) -> bool:
    return bool(await value == expected)
