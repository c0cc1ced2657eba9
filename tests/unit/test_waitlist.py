"""The jobs of a process that wait for a key: what it asks the pool, and how their waits end.

The whole of it, with a real key pool, is in `tests/integration/waitlist`.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from config.api_key import make_key
from worker.aio.errors import Revoked
from worker.keypool import Lease, LeaseRequest, Line, NoLease, NoLeaseReason
from worker.rotation import wait_queue, waitlist
from worker.rotation.waitlist import WaitList
from worker.verdicts import ABANDONED

KEY = make_key("groq", secret=f"gsk_{0:046}", variable="GROQ_API_KEY")
LEASE = Lease("lease", KEY, "a", LeaseRequest(), 0)
WAIT = NoLease(NoLeaseReason.WAIT, ask_in_ms=3_600_000, reason="rpm")
JOB = LeaseRequest(model="m", resource="m", by="job")


class Pool:
    """A pool that answers as a test says, and notes what it is asked."""

    def __init__(self) -> None:
        self.answer: Lease | NoLease = LEASE
        self.asked: list[tuple[LeaseRequest, Line | None]] = []
        self.left: list[Line] = []
        self.settled: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def acquire(self, request: LeaseRequest, line: Line | None) -> Lease | NoLease:
        self.asked.append((request, line))
        await self.gate.wait()
        return self.answer

    async def leave(self, line: Line) -> None:
        self.left.append(line)

    async def settle(self, lease: Lease, verdict: Any) -> None:
        self.settled.append((lease, verdict))


@pytest.fixture
def pool() -> Pool:
    return Pool()


@pytest.fixture
async def waiting(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WaitList]:
    monkeypatch.setattr(wait_queue, "_SETTLE_S", 0.0)
    made = WaitList(cast("Any", pool))
    yield made
    made.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def stand(waiting: WaitList, request: LeaseRequest = JOB, **more: Any) -> asyncio.Task[Any]:
    job = asyncio.ensure_future(waiting.acquire(request, **more))
    await turns()
    return job


def count(waiting: WaitList) -> int:
    return waiting.demand.count(bulk=False) + waiting.demand.count(bulk=True)


@pytest.mark.parametrize("end", ["close", "cancel", "answer"])
async def test_a_process_leaves_a_wait_list_as_soon_as_nobody_waits(
    pool: Pool, waiting: WaitList, end: str
) -> None:
    pool.answer = WAIT
    assert not waiting.is_used
    job = await stand(waiting)
    assert waiting.is_used
    assert pool.left == []
    if end == "close":
        waiting.close()
        assert (await job).reason == "this worker shuts down"
        assert (await waiting.acquire(JOB)).reason == "this worker shuts down"
    elif end == "cancel":
        waiting.cancel({"job"})
        with pytest.raises(Revoked):
            await job
    else:
        pool.answer = LEASE
        waiting.wake()
        assert await job is LEASE
    await turns()
    assert pool.left == [Line("m", waiting._id)]
    assert not waiting.is_used
    assert [line.entered for _, line in pool.asked if line] == [False, True][: len(pool.asked)]


async def test_a_job_whose_keys_are_free_enters_no_wait_list(pool: Pool, waiting: WaitList) -> None:
    assert await waiting.acquire(JOB) is LEASE
    assert pool.asked == [(JOB, Line("m", waiting._id))]
    assert await waiting.acquire(JOB) is LEASE
    assert not pool.asked[1][1].entered  # type: ignore[union-attr]
    assert await waiting.acquire(replace(JOB, account="a"), in_turn=False) is LEASE
    assert pool.asked[2][1] is None
    await turns()
    assert (pool.left, waiting.demand.capacity()) == ([], 8)


async def test_only_so_many_ask_at_once_who_have_not_waited(pool: Pool, waiting: WaitList) -> None:
    pool.gate.clear()
    jobs = [await stand(waiting, replace(JOB, by=str(n))) for n in range(10)]
    direct = [request.by for request, line in pool.asked if line and not line.entered]
    assert direct[:8] == [str(n) for n in range(8)]
    assert count(waiting) == 2
    pool.answer = WAIT
    waiting.wake()
    await turns()
    assert not any(line.entered for _, line in pool.asked if line)
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
    assert len(pool.asked) == 9, "the last one has its place in the line"
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
        pool.asked.append((request, line))
        widths.append(len(pool.asked))
        answer = WAIT if 9 <= len(widths) <= 14 else LEASE
        await turns()
        pool.asked.clear()
        return answer

    pool.asked.clear()
    pool.acquire = at_once  # type: ignore[method-assign]
    waiting.wake()
    await turns(1_000)
    assert [job.done() for job in jobs[:15]] == [True] * 8 + [False] * 6 + [True]
    assert widths[:15] == [1, 1, 2, 1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8]
    assert widths[15:18] == [1, 1, 2], "one by one again"


async def test_a_change_of_before_the_question_has_no_job_ask_twice(
    pool: Pool, waiting: WaitList
) -> None:
    pool.answer = WAIT
    job = await stand(waiting)
    waiting.cancel({"job"})
    await asyncio.wait({job})
    await turns()
    waiting.wake()
    asked = len(pool.asked)
    again = await stand(waiting)
    assert len(pool.asked) == asked + 1
    assert not again.done()


async def test_a_job_that_is_smaller_than_all_that_were_refused_asks_at_once(
    pool: Pool, waiting: WaitList
) -> None:
    pool.answer = WAIT
    await stand(waiting, replace(JOB, tokens=100))
    asked = len(pool.asked)
    await stand(waiting, replace(JOB, tokens=100, by="as large"))
    assert len(pool.asked) == asked
    pool.answer = LEASE
    small = await stand(waiting, replace(JOB, tokens=99, by="small"))
    assert small.result() is LEASE


async def test_a_change_is_seen_once(pool: Pool, waiting: WaitList) -> None:
    pool.answer = WAIT
    job = await stand(waiting)
    for _ in range(2):
        asked = len(pool.asked)
        waiting.wake()
        await turns(100)
        assert len(pool.asked) == asked + 1
    assert not job.done()


async def test_the_jobs_behind_one_whose_time_is_over_do_not_ask_all_at_once(
    pool: Pool, waiting: WaitList
) -> None:
    pool.answer = WAIT
    await waiting.acquire(JOB, longest_s=0.0)
    asked = len(pool.asked)
    for name in "abc":
        await stand(waiting, replace(JOB, by=name))
    assert len(pool.asked) == asked + 1


# What the end of a call of this process does, by why the pool had no room.
@pytest.mark.parametrize(("why", "asks"), [(NoLeaseReason.WAIT, 0), (NoLeaseReason.BUSY, 1)])
async def test_the_end_of_a_call_has_jobs_ask_again_where_it_may_make_room(
    pool: Pool, waiting: WaitList, why: NoLeaseReason, asks: int
) -> None:
    pool.answer = replace(WAIT, why=why)
    await stand(waiting)
    asked = len(pool.asked)
    waiting.notify_ended()
    await turns()
    assert len(pool.asked) == asked + asks
    pool.answer = WAIT  # limits are known by now
    waiting.wake()
    await turns()
    asked = len(pool.asked)
    waiting.notify_ended()
    await turns()
    assert len(pool.asked) == asked


async def test_who_waited_long_enough_is_told_why_unless_its_lease_came_in_that_moment(
    pool: Pool, waiting: WaitList
) -> None:
    pool.answer = WAIT
    got = await waiting.acquire(JOB, longest_s=0.0)
    assert (got, count(waiting)) == (NoLease(NoLeaseReason.WAIT, reason="rpm"), 0)
    loop = asyncio.get_running_loop()
    waiting.overflow.relieve = lambda queue: loop.call_soon(  # type: ignore[method-assign, assignment, misc]
        queue.deliver, queue.waiters[-1], LEASE
    )
    assert await waiting.acquire(JOB, longest_s=0.0) is LEASE
    assert pool.settled == []


async def test_a_job_that_is_stopped_in_the_moment_of_its_lease_gives_it_back(
    pool: Pool, waiting: WaitList
) -> None:
    pool.answer = WAIT
    for answer, settled in ((LEASE, [(LEASE, ABANDONED)]), (WAIT, [])):
        job = await stand(waiting)
        [queue] = waiting._queues.values()
        queue.deliver(queue.waiters[0], answer)
        job.cancel()
        await asyncio.wait({job})
        assert job.cancelled()
        assert pool.settled == settled
        pool.settled.clear()


# What the pool answers, and for how long no key serves then, in seconds.
@pytest.mark.parametrize(
    ("answer", "in_turn", "rests_s"),
    [
        (NoLease(NoLeaseReason.RESTING, first_in_ms=90_000), True, 90.0),
        (NoLease(NoLeaseReason.DISABLED), True, 60.0),
        (NoLease(NoLeaseReason.NO_KEYS), True, 60.0),
        (NoLease(NoLeaseReason.TOO_LARGE), True, 0.0),
        (NoLease(NoLeaseReason.UNFIT), True, 0.0),
        (NoLease(NoLeaseReason.RESTING, first_in_ms=90_000), False, 0.0),  # of one account only
    ],
)
async def test_backpressure_hears_of_keys_that_serve_nobody_for_long(
    pool: Pool,
    waiting: WaitList,
    monkeypatch: pytest.MonkeyPatch,
    answer: NoLease,
    *,
    in_turn: bool,
    rests_s: float,
) -> None:
    clock = SimpleNamespace(monotonic=lambda: 1_000.0)
    monkeypatch.setattr(waitlist, "time", clock)
    monkeypatch.setattr("worker.rotation.demand.time", clock)
    told: list[str] = []
    waiting.demand.on_full = lambda: told.append("full")
    pool.answer = answer
    assert await waiting.acquire(JOB, in_turn=in_turn) is answer
    assert waiting.demand.resting_s() == rests_s
    assert told == ["full"] * (rests_s > 0)
    waiting.wake()
    assert waiting.demand.resting_s() == 0.0


async def test_queues_that_nobody_uses_are_forgotten_once_there_are_many(
    pool: Pool, waiting: WaitList, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waitlist, "_MOST_QUEUES", 2)
    pool.answer = WAIT
    job = await stand(waiting)
    pool.answer = LEASE
    for model, queues in (("a", 2), ("b", 3), ("c", 2), ("c", 2)):
        await waiting.acquire(replace(JOB, model=model))
        assert len(waiting._queues) == queues
    waiting.wake()
    assert await job is LEASE, "its queue is in use"


async def test_a_call_begins_at_its_instant_and_not_if_its_job_is_cancelled(
    waiting: WaitList,
) -> None:
    await waiting.await_start(replace(LEASE, wait_ms=1))
    jobs = {
        name: asyncio.ensure_future(
            waiting.await_start(replace(LEASE, request=LeaseRequest(by=name), wait_ms=wait_ms))
        )
        for name, wait_ms in (("a", 3_600_000), ("b", 3_600_000), ("c", 0))
    }
    await jobs["c"]
    waiting.cancel({"a", "c"})
    with pytest.raises(Revoked):
        await jobs["a"]
    assert not jobs["b"].done()
    jobs["b"].cancel()
    await asyncio.wait({jobs["b"]})
    assert waiting._starting == {}


async def test_a_pause_ends_after_its_time_or_when_the_keys_have_changed(
    waiting: WaitList,
) -> None:
    await waiting.pause(0.0)
    for _ in range(2):
        pauses = [asyncio.ensure_future(waiting.pause(3_600.0)) for _ in range(2)]
        await turns()
        assert not any(one.done() for one in pauses)
        waiting.wake()
        await asyncio.gather(*pauses)


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
    pool.asked.clear()
    waiting.wake()
    assert await asyncio.gather(first, second) == [LEASE] * 2
    facts = [(one.by, one.waited_ms, line and line.next_waited_ms) for one, line in pool.asked]
    assert facts == [("job", 9_000, 4_000), ("second", 4_000, None)]
    assert all(line and line.entered for _, line in pool.asked)
