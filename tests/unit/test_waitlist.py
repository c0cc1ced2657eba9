"""How the waits of the jobs of a process end, and what backpressure learns from them.

With a real key pool: `tests/integration/waitlist`.
"""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.unit.waiting_jobs import (
    JOB,
    LEASE,
    WAIT,
    Pool,
    count,
    pool,
    stand,
    turns,
    waiting,
)
from worker.aio.errors import Revoked
from worker.keypool import LeaseRequest, Line, NoLease, NoLeaseReason
from worker.rotation import waitlist
from worker.rotation.waitlist import WaitList
from worker.verdicts import ABANDONED

__all__ = ["pool", "waiting"]


@pytest.mark.parametrize("end", ["close", "cancel", "answer"])
async def test_a_process_leaves_a_wait_list_as_soon_as_none_of_its_jobs_wait(
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
    assert [line.entered for _, line in pool.requests if line] == [False, True][
        : len(pool.requests)
    ]


async def test_a_job_whose_keys_are_free_enters_no_wait_list(pool: Pool, waiting: WaitList) -> None:
    assert await waiting.acquire(JOB) is LEASE
    assert pool.requests == [(JOB, Line("m", waiting._id))]
    assert await waiting.acquire(JOB) is LEASE
    assert not pool.requests[1][1].entered  # type: ignore[union-attr]
    assert await waiting.acquire(replace(JOB, account="a"), in_turn=False) is LEASE
    assert pool.requests[2][1] is None
    await turns()
    assert (pool.left, waiting.demand.capacity()) == ([], 8)


async def test_a_job_that_waited_long_enough_gets_the_reason_unless_its_lease_comes_just_then(
    pool: Pool, waiting: WaitList
) -> None:
    pool.answer = WAIT
    answer = await waiting.acquire(JOB, longest_s=0.0)
    assert (answer, count(waiting)) == (NoLease(NoLeaseReason.WAIT, reason="rpm"), 0)
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


# The pool's answer, and for how long no key then serves, in seconds.
@pytest.mark.parametrize(
    ("answer", "in_turn", "rests_s"),
    [
        (NoLease(NoLeaseReason.RESTING, first_in_ms=90_000), True, 90.0),
        (NoLease(NoLeaseReason.DISABLED), True, 60.0),
        (NoLease(NoLeaseReason.NO_KEYS), True, 60.0),
        (NoLease(NoLeaseReason.TOO_LARGE), True, 0.0),
        (NoLease(NoLeaseReason.UNFIT), True, 0.0),
        (NoLease(NoLeaseReason.RESTING, first_in_ms=90_000), False, 0.0),  # only one account rests
    ],
)
async def test_backpressure_learns_for_how_long_no_key_serves(
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
    signals: list[str] = []
    waiting.demand.on_full = lambda: signals.append("full")
    pool.answer = answer
    assert await waiting.acquire(JOB, in_turn=in_turn) is answer
    assert waiting.demand.resting_s() == rests_s
    assert signals == ["full"] * (rests_s > 0)
    waiting.wake()
    assert waiting.demand.resting_s() == 0.0


async def test_unused_queues_are_forgotten_once_there_are_many(
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
    assert await job is LEASE, "the queue is in use"


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
        assert not any(pause.done() for pause in pauses)
        waiting.wake()
        await asyncio.gather(*pauses)
