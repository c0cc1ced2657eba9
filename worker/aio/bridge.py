"""Lets plain code wait for a coroutine without blocking the event loop.

A job's tracer runs in a greenlet on the loop's thread, and with it the task's body and hooks. To
await something, this plain code runs the awaitable step by step in its own greenlet. When a step
waits for a future, the greenlet passes the future to its driver, an asyncio task. The driver yields
the future to the loop, and passes the result back. For asyncio the driver is an ordinary task:
`current_task`, timeouts, task groups and cancellation work on it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Executor
from contextvars import copy_context
from types import CoroutineType, coroutine
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet

T = TypeVar("T")

_KEPT = 256
"""The most idle greenlets to keep; each takes a few kilobytes."""
_EAGER = hasattr(asyncio, "eager_task_factory")
"""Whether an asyncio task may start within a step of another task: from Python 3.12 on."""


class _WorkItem:
    """The code that a greenlet runs.

    The greenlet's function refers to this object and not to the greenlet itself. Otherwise the
    greenlet could not be freed.
    """

    __slots__ = ("ended", "result", "work")

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work: Callable[[], Any] | None = work
        self.result: Any = None
        self.ended = False


class JobGreenlet(greenlet):
    """A greenlet that runs one job, and after that job's end another job.

    Args:
        run: The job's plain code.
        executor: Runs the job's blocking calls.
        driver: The asyncio task that drives the greenlet. Default: the running task.
    """

    __slots__ = ("_item", "driver", "executor")

    def __init__(
        self, run: Callable[[], Any], executor: Executor, driver: "asyncio.Task[Any] | None" = None
    ) -> None:
        super().__init__(_serve)
        self._item = _WorkItem(run)
        self.driver = driver or asyncio.current_task()
        self.executor = executor

    @property
    def ended(self) -> bool:
        """Whether the plain code has returned or raised."""
        return self._item.ended or self.dead

    def begin(self) -> Any:
        """Run the plain code until it ends, or waits for a future; return that future."""
        return self.switch() if self else self.switch(self._item)

    def take_result(self) -> Any:
        """Return the plain code's return value, and keep no reference to it."""
        result, self._item.result = self._item.result, None
        return result

    def resume(self, run: Callable[[], Any], driver: "asyncio.Task[Any] | None") -> None:
        """Set the next job's code, after the last job's code has returned."""
        self._item.work, self._item.ended, self.driver = run, False, driver


def _serve(item: _WorkItem) -> None:
    # All of this is in one frame. Each call of Python code from C code takes room on the C stack,
    # and that stack is copied for each job that waits.
    while True:
        work, item.work = item.work, None
        assert work is not None  # noqa: S101 - `resume` has set it
        item.result = work()
        work, item.ended = None, True
        parent = getcurrent().parent
        assert parent is not None  # noqa: S101 - `begin` switched from there
        parent.switch()  # no argument, because this greenlet would keep it until the next job


class JobGreenlets:
    """Greenlets that are reused, because a new one costs two system calls and a page fault.

    All calls must come from one thread.

    Args:
        executor: Runs blocking calls of jobs.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._idle: list[JobGreenlet] = []
        self._closed = False

    def take(self, run: Callable[[], Any], driver: "asyncio.Task[Any] | None") -> JobGreenlet:
        """Return a greenlet that runs `run` in the context of its driver, the running task."""
        here = getcurrent()
        if self._idle:
            job = self._idle.pop()
            job.resume(run, driver)
        else:
            job = JobGreenlet(run, self._executor, driver)
        # The greenlet uses the driver's own context, not a copy: each sees the variables that the
        # other sets.
        job.gr_context = here.gr_context
        return job

    def give_back(self, job: JobGreenlet) -> None:
        """Keep a greenlet for another job."""
        job.driver = None
        if not job.dead and job.ended and not self._closed and len(self._idle) < _KEPT:
            job.gr_context = None
            self._idle.append(job)

    def close(self) -> None:
        """Free the idle greenlets, and keep none from now on."""
        self._closed = True
        self._idle.clear()


@coroutine
def drive(
    job: JobGreenlet, translate: Callable[[BaseException], BaseException]
) -> Generator[Any, Any, Any]:
    """Await a greenlet: run it until it ends, and yield the futures that it waits for.

    Args:
        job: The greenlet.
        translate: Converts an exception that is raised at this await into the job's exception.

    Returns:
        The return value of the plain code.
    """
    future = job.begin()
    while not job.ended:
        try:
            result = yield future
        except BaseException as exc:  # noqa: BLE001 - the job handles a cancellation
            future = job.throw(translate(exc))
        else:
            future = job.switch(result)
    return job.take_result()


def is_coroutine(value: Any) -> bool:
    """Whether a value is a coroutine, of Python or of Cython.

    The type is compared first, because `isinstance` with the abstract class takes a microsecond.
    """
    return type(value) is CoroutineType or isinstance(value, Coroutine)


def is_bridged() -> bool:
    """Whether `wait` may be used here.

    It may not be used in a child task. A child task that was started eagerly runs in the job's
    greenlet too, but if it switched away, the driver would yield in place of the child.
    """
    current = getcurrent()
    return isinstance(current, JobGreenlet) and (
        not _EAGER or asyncio.current_task() is current.driver
    )


def wait(awaitable: Awaitable[T]) -> T:
    """Await from plain code in a job's greenlet, and return the result.

    Call it only if `is_bridged()` is true.
    """
    steps: Any = awaitable if is_coroutine(awaitable) else awaitable.__await__()
    parent = getcurrent().parent
    assert parent is not None  # noqa: S101 - a job's greenlet has one
    switch = parent.switch
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            future = steps.send(value) if error is None else steps.throw(error)
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            error = None  # its traceback refers to this frame
        try:
            value = switch(future)
        except BaseException as exc:  # noqa: BLE001 - the awaitable handles it
            error = exc


def call(function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Call a blocking function in a thread; outside of a job, call it in the running thread.

    The function sees the job's request. A first cancellation waits for the thread, because a
    half-sent message cannot be undone. A second cancellation does not wait, so that a dead broker
    cannot hold a job for ever.
    """
    current = getcurrent()
    if not isinstance(current, JobGreenlet) or not is_bridged():
        return function(*args, **kwargs)
    context = copy_context()
    future = asyncio.get_running_loop().run_in_executor(
        current.executor, lambda: context.run(function, *args, **kwargs)
    )
    return wait(_until_done(future))


async def _until_done(future: "asyncio.Future[T]") -> T:
    cancelled: BaseException | None = None
    try:
        while not future.done():
            try:
                await asyncio.wait((future,))
            except asyncio.CancelledError as exc:
                if cancelled is not None:
                    raise
                cancelled = exc
        if cancelled is not None:
            if not future.cancelled():
                future.exception()  # retrieved, so that asyncio does not log it
            raise cancelled
        return future.result()
    finally:
        cancelled = None  # its traceback refers to this frame
