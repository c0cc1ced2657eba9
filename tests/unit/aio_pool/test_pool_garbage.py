"""What jobs that did not succeed leave behind: nothing that waits for the garbage collector."""

import asyncio
import gc
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from types import TracebackType

import pytest
from celery import Celery
from celery.exceptions import Ignore, Reject, Retry

from tests.unit.aio_pool.pool_outcome import Outcome, Start, settled
from worker.aio.adopt import Task
from worker.aio.tracing import JobContext


@pytest.fixture(autouse=True)
def no_collector(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.CRITICAL + 1)  # pytest would keep the tracebacks that are logged
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def failed() -> None:
    raise ValueError("the provider refuses")


def with_a_cause() -> None:
    try:
        failed()
    except ValueError as cause:
        raise ValueError("and so does the next one") from cause


class TwoArgumentsError(Exception):
    """An error like those of the providers' SDKs: Celery has a copy of another class stored."""

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


KINDS = (TracebackType, JobContext)
"""`Outcome` keeps the reports by itself."""


def left() -> Counter[str]:
    """What is held of jobs: the collector knows it, whether or not it can be reached."""
    return Counter(type(each).__name__ for each in gc.get_objects() if type(each) in KINDS)


@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize(
    "act",
    [
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
def test_a_job_that_does_not_succeed_leaves_nothing_to_the_collector(
    app: Celery, start: Start, act: Callable[[], None], *, in_thread: bool
) -> None:
    async def work() -> None:
        act()

    light = act is goes_back_lightly
    task = app.task(
        act if in_thread else work, name="t", shared=False, base=Task, light_retry=light
    )
    pool = start()
    assert Outcome(pool, task).answer  # the first one fills caches
    before = left()
    for _ in range(3):
        assert Outcome(pool, task).answer
    assert settled(pool, running=0, queued=0)
    assert left() - before == Counter()


@pytest.mark.parametrize("limits", [{}, {"timeout": 0.01}, {"soft_timeout": 0.01}], ids=str)
def test_a_job_that_is_cut_off_leaves_nothing_to_the_collector(
    app: Celery, start: Start, limits: dict[str, float]
) -> None:
    @app.task(shared=False)
    async def wait() -> None:
        await asyncio.Event().wait()

    def cut_off() -> None:
        outcome = Outcome(pool, wait, **limits)
        assert outcome.accepted.result(10)
        if not limits:
            outcome.job.terminate()
        assert settled(pool, running=0, queued=0)

    pool = start()
    cut_off()
    before = left()
    for _ in range(3):
        cut_off()
    assert left() - before == Counter()
