"""Lets plain code wait for a coroutine without blocking the event loop.

A job's tracer, and with it the task's body and hooks, runs in a greenlet on the loop's thread.
Where that plain code awaits something, it runs the awaitable step by step in its own greenlet. Each
future that a step waits for is switched to the asyncio task that drives the greenlet; the driver
yields the future to the loop, and switches its result back. For asyncio the driver is one ordinary
task: `current_task`, timeouts, task groups and cancellation work on it.
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
"""The most idle greenlets; each has a few kilobytes."""
_EAGER = hasattr(asyncio, "eager_task_factory")
"""Whether a task may begin inside another's step: from Python 3.12 on."""


class _WorkItem:
    """The code that a greenlet runs.

    That code refers to this object and not to the greenlet, which could not be freed otherwise.
    """

    __slots__ = ("ended", "result", "work")

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work: Callable[[], Any] | None = work
        self.result: Any = None
        self.ended = False


class JobGreenlet(greenlet):
    """The greenlet of one job, and after that job's end of another.

    Args:
        run: The plain code.
        executor: Runs its blocking calls.
        driver: The asyncio task that will drive it. Default: the running one.
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
        """Whether the plain code has returned, or raised."""
        return self._item.ended or self.dead

    def begin(self) -> Any:
        """Run the plain code until it waits for a future, and return that; or until it ends."""
        return self.switch() if self else self.switch(self._item)

    def take_result(self) -> Any:
        """Return what the plain code has returned, and keep nothing of it."""
        result, self._item.result = self._item.result, None
        return result

    def resume(self, run: Callable[[], Any], driver: "asyncio.Task[Any] | None") -> None:
        """Set other code to run; the code before it has returned."""
        self._item.work, self._item.ended, self.driver = run, False, driver


def _serve(item: _WorkItem) -> None:
    # This is all in one frame: where C code calls Python code, that takes room on the C stack,
    # which is copied for each job that waits.
    while True:
        work, item.work = item.work, None
        assert work is not None  # noqa: S101 - `resume` has set it
        item.result = work()
        work, item.ended = None, True
        parent = getcurrent().parent
        assert parent is not None  # noqa: S101 - `begin` switched from there
        parent.switch()  # with an argument, this greenlet would keep it until the next job


class JobGreenlets:
    """Reuses greenlets, since a new one costs two system calls and a page fault.

    It is used on one thread only.

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
        # The driver's own context, not a copy: each side sees what the other one sets.
        job.gr_context = here.gr_context
        return job

    def give_back(self, job: JobGreenlet) -> None:
        """Keep a greenlet for another job."""
        job.driver = None
        if not job.dead and job.ended and not self._closed and len(self._idle) < _KEPT:
            job.gr_context = None
            self._idle.append(job)

    def close(self) -> None:
        """Free the idle greenlets, and keep no others."""
        self._closed = True
        self._idle.clear()


@coroutine
def drive(
    job: JobGreenlet, translate: Callable[[BaseException], BaseException]
) -> Generator[Any, Any, Any]:
    """Await a greenlet: run it until it ends, and yield the futures that it waits for.

    Args:
        job: The greenlet.
        translate: Replaces an exception that arrives at the await by the one for the job.

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
    """Whether a value is a coroutine, also one of Cython's.

    A check of the abstract class alone would take a microsecond for each value.
    """
    return type(value) is CoroutineType or isinstance(value, Coroutine)


def is_bridged() -> bool:
    """Whether `wait` may be used here.

    It may not in a child task, even in one that was started eagerly and so runs in the job's
    greenlet: if that switched away, the driver would yield in its place.
    """
    current = getcurrent()
    return isinstance(current, JobGreenlet) and (
        not _EAGER or asyncio.current_task() is current.driver
    )


def wait(awaitable: Awaitable[T]) -> T:
    """Await from plain code in a job's greenlet, and return the result.

    Only where `is_bridged`.
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
        except BaseException as exc:  # noqa: BLE001 - the awaitable decides
            error = exc


def call(function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Call a blocking function in a thread; outside of a job, call it here.

    The function sees the job's request. A first cancellation waits for the thread, because half a
    publish cannot be undone; a second one does not wait, so that a dead broker cannot hold a job
    for ever.
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
                future.exception()  # so that asyncio does not log it; the cancellation matters more
            raise cancelled
        return future.result()
    finally:
        cancelled = None  # its traceback refers to this frame
