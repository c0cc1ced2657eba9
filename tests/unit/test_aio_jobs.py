"""Which jobs begin, and when; without a loop."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest

from worker.aio.jobs import Jobs


class Loop:
    """A loop that runs its scheduled calls when the test turns it."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self.contexts: set[Any] = set()

    def call_soon(self, function: Callable[[], None], *, context: Any) -> None:
        self.soon.append(function)
        self.contexts.add(id(context))

    call_soon_threadsafe = call_soon

    def turn(self) -> None:
        soon, self.soon = self.soon, []
        for function in soon:
            function()


class Job:
    """The parts of a job that its start uses."""

    def __init__(self, pool: "Pool", pid: int, *, name: str, in_thread: bool) -> None:
        self.pid, self.name, self.in_thread = pid, name, in_thread
        self.delivery_tag = f"tag{pid}"
        self.start = lambda: pool.begun.append(pid)


class Pool:
    """Jobs, and a task that may run once at a time."""

    def __init__(self, limit: int) -> None:
        self.loop, self.threads, self.jobs = Loop(), Mock(), Jobs(limit)
        self.jobs.run_on(self.loop, self.threads)  # type: ignore[arg-type]
        self.jobs.queue.limits.set_from(SimpleNamespace(name="single", concurrency_limit=1))
        self.begun: list[int] = []

    def put(self, *pids: int, name: str = "x", in_thread: bool = False) -> list[Any]:
        jobs = [Job(self, pid, name=name, in_thread=in_thread) for pid in pids]
        for each in jobs:
            self.jobs.put(each)  # type: ignore[arg-type]
        return jobs

    def turn(self) -> list[int]:
        """Turn until nothing is scheduled; return the jobs that began."""
        self.begun.clear()
        while self.loop.soon:
            self.loop.turn()
        return self.begun[:]


def test_jobs_begin_in_their_order_as_slots_become_free() -> None:
    pool = Pool(2)
    first, second, third, fourth = pool.put(1, 2, 3, 4)
    assert len(pool.loop.soon) == 1
    assert pool.turn() == [1, 2]
    assert (pool.jobs.running, pool.jobs.unsettled, len(pool.jobs.queue)) == (2, 2, 2)
    pool.jobs.on_done(second)
    assert pool.turn() == [3]
    pool.jobs.limit = 1
    pool.jobs.on_done(first)
    assert pool.turn() == []
    pool.jobs.on_done(third)
    assert pool.turn() == [4]
    assert pool.jobs.all() == [fourth]
    pool.jobs.on_done(fourth)
    assert pool.jobs.running == pool.jobs.unsettled == 0
    assert pool.loop.soon == [], "no job waits"
    assert len(pool.loop.contexts) == 1, "the context is the pool's, whichever job made room"


def test_the_loop_looks_at_its_sockets_after_some_jobs_have_begun() -> None:
    pool = Pool(30)
    pool.put(*range(20))
    for begun in (8, 16, 20):
        assert len(pool.loop.soon) == 1
        pool.loop.turn()
        assert len(pool.begun) == begun
    assert pool.loop.soon == []


def test_a_job_is_known_by_its_number_until_it_has_ended() -> None:
    pool = Pool(1)
    first, second = pool.put(1, 2)
    assert pool.turn() == [1]
    assert [pool.jobs.get(pid) for pid in (1, 2, 3)] == [first, second, None]
    pool.jobs.drop({"tag2"})
    assert pool.jobs.get(2) is None
    pool.jobs.on_done(first)
    assert pool.jobs.all() == []
    assert pool.turn() == []


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_job_that_is_over_has_no_slot_and_its_thread_is_replaced_while_it_runs(
    *, in_thread: bool
) -> None:
    pool = Pool(1)
    first, second, _ = pool.put(1, 2, 3, in_thread=in_thread)
    assert pool.turn() == [1]
    pool.jobs.release_slot(first)
    assert pool.threads.mock_calls == [call.write_off(1)] * in_thread
    assert pool.turn() == [2]
    assert (pool.jobs.running, pool.jobs.unsettled) == (2, 1)
    pool.threads.reset_mock()
    pool.jobs.on_done(first)
    assert pool.threads.mock_calls == [call.write_off(-1)] * in_thread
    assert pool.turn() == []
    assert (pool.jobs.running, pool.jobs.unsettled) == (1, 1)
    pool.threads.reset_mock()
    pool.jobs.on_done(second)
    assert pool.threads.mock_calls == []
    assert pool.turn() == [3]


def test_a_job_of_a_task_with_a_limit_begins_first_once_it_may_and_holds_no_slot_meanwhile() -> (
    None
):
    pool = Pool(2)
    first, _ = pool.put(1, 2, name="single")
    assert not pool.jobs.queue.limits.waiting()[0]
    pool.put(3, 4)
    assert pool.turn() == [1, 3]
    assert len(pool.jobs.queue) == 2
    assert pool.jobs.queue.has_next
    pool.jobs.release_slot(first)
    pool.jobs.on_done(first)
    assert pool.turn() == [2], "this job begins before the fourth"
    assert pool.jobs.queue.has_next
    pool.jobs.drop({"tag4"})
    pool.put(5, name="single")
    pool.jobs.limit = 3
    assert pool.turn() == []
    assert not pool.jobs.queue.has_next, (
        "the job waits for another job of its task, and not for a slot"
    )
    assert len(pool.jobs.queue) == 1


def test_jobs_that_are_dropped_leave_the_others_in_their_order() -> None:
    pool = Pool(1)
    pool.put(1, 2, 3, 4, 5)
    assert pool.turn() == [1]
    pool.jobs.drop({"tag3", "tag1"})
    assert pool.loop.soon != [], "the remaining jobs may begin"
    assert pool.turn() == []
    pool.put(6, 7, 8)
    pool.jobs.drop({"tag7"})
    assert len(pool.jobs.queue) == 5
    for ended, following in ((1, 2), (2, 4), (4, 5), (5, 6), (6, 8)):
        pool.jobs.on_done(pool.jobs.get(ended))  # type: ignore[arg-type]
        assert pool.turn() == [following]
    pool.put(9, 10)
    pool.turn()
    pool.jobs.drop()
    assert len(pool.jobs.queue) == 0
    assert pool.loop.soon == [], "no job is left to begin"


def test_nothing_begins_while_the_pool_drains_or_when_its_loop_is_closed() -> None:
    pool = Pool(4)
    pool.jobs.draining = True
    pool.put(1, 2)
    assert pool.turn() == []
    pool.jobs.draining = False
    pool.jobs.admit_soon()
    pool.jobs.admit_soon()
    assert len(pool.loop.soon) == 1
    assert pool.turn() == [1, 2]
    closed = Mock(**{"call_soon_threadsafe.side_effect": RuntimeError})
    pool.jobs.run_on(closed, Mock())
    pool.put(3)
    closed.call_soon_threadsafe.assert_called_once()
