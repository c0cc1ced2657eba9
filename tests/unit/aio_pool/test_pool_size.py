"""How many jobs the pool runs at once, and settings that it refuses.

The pool runs in this process, without a consumer.
"""

import asyncio
import threading
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import ImproperlyConfigured

from tests.unit.aio_pool.pool_outcome import Outcome, Start, settled
from worker.aio.task_limits import TaskLimits


def test_jobs_beyond_the_limit_wait_and_grow_and_shrink_move_it(app: Celery, start: Start) -> None:
    gate = asyncio.Event()

    @app.task(shared=False)
    async def wait() -> None:
        await gate.wait()

    pool = start(2)
    jobs = [Outcome(pool, wait) for _ in range(5)]
    jobs[1].accepted.result(10)
    assert settled(pool, running=2, queued=3)
    pool.grow(2)
    jobs[3].accepted.result(10)
    assert settled(pool, running=4, queued=1)
    pool.shrink(3)
    assert pool.num_processes == pool.info["max-concurrency"] == 1
    assert pool.info["running"] == 4  # running jobs go on
    pool.loop.call_soon_threadsafe(gate.set)
    for job in jobs:
        assert job.answer[0] == 0


@pytest.mark.parametrize(
    ("options", "timeouts"),
    [({}, [0, 0]), ({"soft_timeout": 3}, [3, 0]), ({"timeout": 5}, [0, 5])],
)
def test_the_pools_limits_are_shown(
    start: Start, options: dict[str, Any], timeouts: list[int]
) -> None:
    assert start(**options).info["timeouts"] == timeouts


def test_all_jobs_start_that_came_while_the_loop_was_busy(app: Celery, start: Start) -> None:
    gate, busy = asyncio.Event(), threading.Event()

    @app.task(shared=False)
    async def wait() -> None:
        await gate.wait()

    pool = start(30)
    pool.loop.call_soon_threadsafe(busy.wait)
    # None of the jobs ends, so no further one starts.
    jobs = [Outcome(pool, wait) for _ in range(20)]
    busy.set()
    assert settled(pool, running=20, queued=0)
    pool.loop.call_soon_threadsafe(gate.set)
    assert {job.answer[0] for job in jobs} == {0}


def test_a_pool_never_shrinks_to_nothing(
    app: Celery, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(shared=False)
    async def double(x: int) -> int:
        return 2 * x

    pool = start(2)
    pool.shrink(5)
    assert pool.num_processes == 1
    assert "cannot shrink from 2 by 5" in caplog.text
    assert Outcome(pool, double, 4).answer[1] == "8"


def test_a_pool_that_has_grown_runs_as_many_plain_tasks_at_once(app: Celery, start: Start) -> None:
    together = threading.Barrier(4)

    @app.task(shared=False)
    def meet() -> None:
        together.wait(10)

    pool = start(1)
    pool.grow(3)
    jobs = [Outcome(pool, meet) for _ in range(4)]
    assert [job.answer[0] for job in jobs] == [0] * 4
    assert pool.info["threads"] == 4  # no more than were needed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"maxtasksperchild": 10}, "worker_max_tasks_per_child has no meaning"),
        ({"max_memory_per_child": 10}, "worker_max_memory_per_child has no meaning"),
    ],
)
def test_recycling_is_refused(start: Start, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=words):
        start(**options)


def test_an_unknown_loop_is_refused(start: Start) -> None:
    with pytest.raises(ValueError, match="worker_aio_loop must be one of"):
        start(aio_loop="twisted")


@pytest.mark.parametrize("plain", [False, True])
def test_the_limit_of_a_task_keeps_back_its_jobs_and_no_others(
    app: Celery, start: Start, *, plain: bool
) -> None:
    gates = [asyncio.Event() for _ in range(5)]
    free = [threading.Event() for _ in range(5)]
    running: list[int] = []

    async def asynchronous(number: int) -> None:
        running.append(number)
        await gates[number].wait()

    def synchronous(number: int) -> None:
        running.append(number)
        free[number].wait(10)

    limited = app.task(shared=False, concurrency_limit=2)(synchronous if plain else asynchronous)

    @app.task(shared=False)
    async def other() -> None: ...

    pool = start(10)
    jobs = [Outcome(pool, limited, number) for number in range(5)]
    assert Outcome(pool, other).answer[0] == 0
    assert settled(pool, running=2, queued=3)
    for number in range(5):
        pool.loop.call_soon_threadsafe(gates[number].set)
        free[number].set()
        assert jobs[number].answer[0] == 0
        assert settled(pool, running=min(2, 4 - number), queued=max(0, 2 - number))
    assert sorted(running) == [0, 1, 2, 3, 4]
    dropped = [Outcome(pool, limited, number) for number in range(5)]
    pool.flush()
    assert settled(pool, running=0, queued=0)
    assert len(dropped) == 5


def test_a_concurrency_limit_below_one_is_refused(app: Celery, start: Start) -> None:
    @app.task(shared=False, concurrency_limit=0)
    async def nothing() -> None: ...

    with pytest.raises(
        ValueError, match="concurrency_limit must be a positive whole number, not 0"
    ):
        start()


def test_a_job_that_ends_while_the_consumer_empties_its_queue_starts_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Emptied(deque[Any]):
        """A list that another thread clears between the check and the take."""

        def __bool__(self) -> bool:
            return True

    limits = TaskLimits()
    limits.set_from(SimpleNamespace(name="limited", concurrency_limit=1))
    job: Any = SimpleNamespace(name="limited")
    assert limits.admit(job)
    monkeypatch.setitem(limits._waiting, "limited", Emptied())
    assert limits.release(job) is None
    assert limits.admit(job), "the slot of the job is free again"
