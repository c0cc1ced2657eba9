"""Jobs leave no object for the garbage collector."""

import asyncio
import gc
import logging
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import Ignore, Reject, Retry

from tests.unit.aio_pool.pool_outcome import Outcome, Start, settled
from worker.aio.adopt import Task
from worker.aio.job import Job
from worker.aio.pool import TaskPool
from worker.aio.tracing import JobContext


@pytest.fixture(autouse=True, scope="module")
def none_of_others() -> None:
    gc.collect()
    gc.freeze()  # otherwise each collection would visit all objects of pytest and other tests


@pytest.fixture(autouse=True)
def no_collector(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.CRITICAL + 1)  # otherwise pytest would keep the logged tracebacks
    gc.disable()
    yield
    gc.enable()


def succeeds() -> None:
    pass


def failed() -> None:
    raise ValueError("the provider refuses")


def with_a_cause() -> None:
    try:
        failed()
    except ValueError as cause:
        raise ValueError("and so does the next one") from cause


class TwoArgumentsError(Exception):
    """An error like those of the providers' SDKs: Celery stores a copy of another class."""

    def __init__(self, message: str, *, status: int) -> None:
        super().__init__(message)
        self.status = status


def cannot_be_pickled() -> None:
    raise TwoArgumentsError("refused", status=400)


def goes_back() -> None:
    try:
        failed()
    except ValueError as why:
        retry = Retry(exc=why, when=1)
    raise retry from None


def goes_back_lightly() -> None:
    goes_back()


def is_ignored() -> None:
    raise Ignore("it was done already")


def is_rejected() -> None:
    raise Reject("it stays in its queue", requeue=True)


def ends_the_worker() -> None:
    raise SystemExit(3)


def is_cancelled() -> None:
    raise asyncio.CancelledError


KINDS = (TracebackType, JobContext, Job, Retry)


def held() -> Counter[str]:
    """Count the objects of jobs that the collector tracks, whether or not they can be reached."""
    return Counter(type(each).__name__ for each in gc.get_objects() if type(each) in KINDS)


def run(pool: TaskPool, task: Any, **limits: float) -> None:
    outcome = Outcome(pool, task, **limits)
    assert outcome.accepted.result(10)
    if task.name == "cut off" and not limits:
        outcome.job.terminate()
    assert settled(pool, running=0, queued=0)
    outcome.job = None  # it refers to this outcome


def left_of_three(pool: TaskPool, task: Any, **limits: float) -> Counter[str]:
    """Return what three jobs leave behind, waiting until their thread has released them."""
    run(pool, task, **limits)  # the first job fills caches
    before = held()
    for _ in range(3):
        run(pool, task, **limits)
    deadline_s = time.monotonic() + 10
    while (left := held() - before) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return left


@pytest.mark.parametrize(
    "act",
    [
        succeeds,
        failed,
        with_a_cause,
        cannot_be_pickled,
        goes_back,
        goes_back_lightly,
        is_ignored,
        is_rejected,
        ends_the_worker,
        is_cancelled,
    ],
)
def test_a_job_leaves_nothing_to_the_collector(
    app: Celery, start: Start, act: Callable[[], None]
) -> None:
    light = act is goes_back_lightly

    @app.task(shared=False, base=Task, light_retry=light)
    async def work() -> None:
        act()

    assert left_of_three(start(), work) == Counter()


def test_a_job_in_a_thread_leaves_nothing_to_the_collector(app: Celery, start: Start) -> None:
    assert left_of_three(start(), app.task(failed, shared=False)) == Counter()


@pytest.mark.parametrize("limits", [{}, {"timeout": 0.01}, {"soft_timeout": 0.01}], ids=str)
def test_a_job_that_is_cut_off_leaves_nothing_to_the_collector(
    app: Celery, start: Start, limits: dict[str, float]
) -> None:
    @app.task(shared=False, name="cut off")
    async def wait() -> None:
        await asyncio.Event().wait()

    assert left_of_three(start(), wait, **limits) == Counter()


def test_old_garbage_is_collected_too(start: Start) -> None:
    class Waits:
        def __init__(self) -> None:
            self.itself = self

    gc.collect()
    gc.freeze()  # Python collects the oldest generation when a quarter of all objects is new
    start(aio_gc_objects=500)
    waits = Waits()
    ref = weakref.ref(waits)
    gc.collect(1)  # now it is in the oldest generation
    del waits
    gc.enable()
    _young = [[n] for n in range(500 * 20 * 10)]
    assert ref() is None


def test_the_collector_passes_over_what_the_imports_made(start: Start) -> None:
    imported = [object()]
    start(aio_gc_objects=500)
    assert not any(passed is imported for passed in gc.get_objects())


def test_a_pool_that_leaves_the_collector_alone_freezes_nothing(start: Start) -> None:
    imported = [object()]
    start(aio_gc_objects=0)
    assert any(passed is imported for passed in gc.get_objects())


def test_a_pool_that_has_ended_leaves_the_collector_as_it_was(start: Start) -> None:
    before = gc.get_threshold()
    pool = start()
    assert gc.get_threshold() != before
    pool.stop()
    assert gc.get_threshold() == before
