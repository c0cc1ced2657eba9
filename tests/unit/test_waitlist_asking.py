"""Which waiting jobs of a process ask the pool, when, and how many at once.

With a real key pool: `tests/integration/waitlist`.
"""

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.waiting_jobs import JOB, LEASE, WAIT, Pool, count, pool, stand, turns, waiting
from worker.keypool import Lease, LeaseRequest, Line, NoLease, NoLeaseReason
from worker.rotation import waitlist
from worker.rotation.waitlist import WaitList

__all__ = ["pool", "waiting"]


async def test_at_most_eight_jobs_that_have_not_waited_ask_at_once(
    pool: Pool, waiting: WaitList
) -> None:
    pool.gate.clear()
    jobs = [await stand(waiting, replace(JOB, by=str(n))) for n in range(10)]
    direct = [request.by for request, line in pool.requests if line and not line.entered]
    assert direct[:8] == [str(n) for n in range(8)]
    assert count(waiting) == 2
    pool.answer = WAIT
    waiting.wake()
    await turns()
    assert not any(line.entered for _, line in pool.requests if line)
    assert not any(job.done() for job in jobs)
    pool.gate.set()
    await turns()
    assert count(waiting) == 10
    waiting.close()
    await asyncio.gather(*jobs)
    await turns()
    assert pool.left == [Line("m", waiting._id)]


async def test_a_process_that_asked_for_waiting_jobs_only_leaves_the_wait_list_too(
    pool: Pool, waiting: WaitList
) -> None:
    pool.gate.clear()
    jobs = [await stand(waiting, replace(JOB, by=str(n))) for n in range(9)]
    assert len(pool.requests) == 9, "the last job has its place in the line"
    pool.gate.set()
    assert await asyncio.gather(*jobs) == [LEASE] * 9
    await turns()
    assert pool.left == [Line("m", waiting._id)]


async def test_ever_more_jobs_ask_at_once_until_one_is_refused(
    pool: Pool, waiting: WaitList
) -> None:
    pool.answer = WAIT
    jobs = [await stand(waiting, replace(JOB, tokens=99 - n)) for n in range(30)]
    await turns(1_000)
    widths: list[int] = []

    async def at_once(request: LeaseRequest, line: Line | None) -> Lease | NoLease:
        pool.requests.append((request, line))
        widths.append(len(pool.requests))
        answer = WAIT if 9 <= len(widths) <= 14 else LEASE
        await turns()
        pool.requests.clear()
        return answer

    pool.requests.clear()
    pool.acquire = at_once  # type: ignore[method-assign]
    waiting.wake()
    await turns(1_000)
    assert [job.done() for job in jobs[:15]] == [True] * 8 + [False] * 6 + [True]
    assert widths[:15] == [1, 1, 2, 1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8]
    assert widths[15:18] == [1, 1, 2], "jobs ask one by one again"


async def test_a_change_from_before_a_job_asked_makes_it_ask_once(
    pool: Pool, waiting: WaitList
) -> None:
    pool.answer = WAIT
    job = await stand(waiting)
    waiting.cancel({"job"})
    await asyncio.wait({job})
    await turns()
    waiting.wake()
    questions = len(pool.requests)
    again = await stand(waiting)
    assert len(pool.requests) == questions + 1
    assert not again.done()


async def test_a_job_that_is_smaller_than_all_that_were_refused_asks_at_once(
    pool: Pool, waiting: WaitList
) -> None:
    pool.answer = WAIT
    await stand(waiting, replace(JOB, tokens=100))
    questions = len(pool.requests)
    await stand(waiting, replace(JOB, tokens=100, by="as large"))
    assert len(pool.requests) == questions
    pool.answer = LEASE
    small = await stand(waiting, replace(JOB, tokens=99, by="small"))
    assert small.result() is LEASE


@pytest.mark.parametrize("tokens", [(0, 0, 0), (9, 9, 8), (0, 9, 0)])
async def test_a_lease_that_comes_beside_a_refusal_is_handed_over(
    pool: Pool, waiting: WaitList, tokens: tuple[int, int, int]
) -> None:
    pool.answer = WAIT
    first, *jobs = [await stand(waiting, replace(JOB, tokens=needs)) for needs in tokens]
    await turns(100)
    answers: list[Lease | NoLease] = [LEASE, WAIT, LEASE]

    async def in_order(*_: Any) -> Lease | NoLease:
        return answers.pop(0) if answers else WAIT

    pool.acquire = in_order  # type: ignore[method-assign]
    waiting.wake()
    await turns(100)
    assert first.result() is LEASE
    assert [job.done() for job in jobs] == [False, True]


async def test_a_change_makes_one_job_ask_once(pool: Pool, waiting: WaitList) -> None:
    pool.answer = WAIT
    job = await stand(waiting)
    for _ in range(2):
        questions = len(pool.requests)
        waiting.wake()
        await turns(100)
        assert len(pool.requests) == questions + 1
    assert not job.done()


async def test_the_jobs_behind_one_whose_time_is_over_do_not_ask_all_at_once(
    pool: Pool, waiting: WaitList
) -> None:
    pool.answer = WAIT
    await waiting.acquire(JOB, longest_s=0.0)
    questions = len(pool.requests)
    for name in "abc":
        await stand(waiting, replace(JOB, by=name))
    assert len(pool.requests) == questions + 1


# The effect when a call of this process ends, by the reason why the pool had no room.
@pytest.mark.parametrize(("why", "asks"), [(NoLeaseReason.WAIT, 0), (NoLeaseReason.BUSY, 1)])
async def test_the_end_of_a_call_has_jobs_ask_again_if_it_may_make_room(
    pool: Pool, waiting: WaitList, why: NoLeaseReason, asks: int
) -> None:
    pool.answer = replace(WAIT, why=why)
    await stand(waiting)
    questions = len(pool.requests)
    waiting.notify_ended()
    await turns()
    assert len(pool.requests) == questions + asks
    pool.answer = WAIT  # limits are known by now
    waiting.wake()
    await turns()
    questions = len(pool.requests)
    waiting.notify_ended()
    await turns()
    assert len(pool.requests) == questions


async def test_the_pool_knows_how_long_each_job_has_waited(
    pool: Pool, waiting: WaitList, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = SimpleNamespace(s=1_000.0)
    monkeypatch.setattr(waitlist, "time", SimpleNamespace(monotonic=lambda: now.s))
    pool.answer = WAIT
    first = await stand(waiting, replace(JOB, waited_ms=4_000))
    now.s += 2
    second = await stand(waiting, replace(JOB, waited_ms=1_000, by="second"))
    now.s += 3
    pool.answer = LEASE
    pool.requests.clear()
    waiting.wake()
    assert await asyncio.gather(first, second) == [LEASE] * 2
    facts = [
        (request.by, request.waited_ms, line and line.next_waited_ms)
        for request, line in pool.requests
    ]
    assert facts == [("job", 9_000, 4_000), ("second", 4_000, None)]
    assert all(line and line.entered for _, line in pool.requests)
