"""The bridge: plain code that waits for a coroutine without holding up the event loop.

A job's tracer, and with it the task's body and hooks, runs in a greenlet on the loop's thread.
Wherever that plain code needs something awaited, it runs the awaitable step by step in its own
greenlet; each future that a step waits for is switched to the asyncio task that drives the
greenlet, which yields it to the loop and switches the answer back. To asyncio the driver is one
ordinary task: `current_task`, timeouts, task groups and cancellation all work on it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Executor
from contextvars import copy_context
from types import CoroutineType
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet

T = TypeVar("T")

_KEPT = 256
"""Idle greenlets at most; each holds a few kilobytes."""
_EAGER = hasattr(asyncio, "eager_task_factory")
"""Whether a task may begin inside another's step: from Python 3.12 on."""


class _Desk:
    """What a greenlet works on.

    Its code holds this and not the greenlet, which could not be dropped else.
    """

    __slots__ = ("ended", "work")

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work: Callable[[], Any] | None = work
        self.ended = False


class JobGreenlet(greenlet):
    """The greenlet of one job, and when that has ended of another.

    Args:
        run: The plain code.
        executor: Where its blocking calls go.
        driver: The asyncio task that will drive it. Default: the running one.
    """

    __slots__ = ("_desk", "driver", "executor")

    def __init__(
        self, run: Callable[[], Any], executor: Executor, driver: "asyncio.Task[Any] | None" = None
    ) -> None:
        super().__init__(_serve)
        self._desk = _Desk(run)
        self.driver = driver or asyncio.current_task()
        self.executor = executor

    @property
    def ended(self) -> bool:
        """Whether the plain code has returned, or raised."""
        return self._desk.ended or self.dead

    def begin(self) -> Any:
        """Run the plain code to its first wish, or its end."""
        return self.switch() if self else self.switch(self._desk)

    def resume(self, run: Callable[[], Any], driver: "asyncio.Task[Any] | None") -> None:
        """Make it ready for other code; the earlier one has returned."""
        self._desk.work, self._desk.ended, self.driver = run, False, driver


def _serve(desk: _Desk) -> None:
    # All in one frame: where C code calls Python code it takes room on the C stack, which is copied
    # for each job that waits.
    while True:
        work, desk.work = desk.work, None
        assert work is not None  # noqa: S101 - whoever switches here has set it
        answer = [work()]
        work, desk.ended = None, True
        parent = getcurrent().parent
        assert parent is not None  # noqa: S101 - it was switched to from there
        parent.switch(answer.pop())


class JobGreenlets:
    """Keeps greenlets whose jobs have ended for others.

    A new one costs two system calls and a page fault.

    On one thread only.

    Args:
        executor: Where blocking calls go.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._idle: list[JobGreenlet] = []
        self._closed = False

    def take(self, run: Callable[[], Any], driver: "asyncio.Task[Any] | None") -> JobGreenlet:
        """Give one that will run `run` in the context of its driver, which is the running one."""
        here = getcurrent()
        if self._idle:
            job = self._idle.pop()
            job.resume(run, driver)
        else:
            job = JobGreenlet(run, self._executor, driver)
        # The driver's own context, not a copy: what either side sets, the other sees.
        job.gr_context = here.gr_context
        return job

    def give_back(self, job: JobGreenlet) -> None:
        """Keep one for later."""
        job.driver = None
        if not job.dead and job.ended and not self._closed and len(self._idle) < _KEPT:
            job.gr_context = None
            self._idle.append(job)

    def close(self) -> None:
        """Let them go."""
        self._closed = True
        self._idle.clear()


class Drive:
    """Awaits a greenlet: runs it until it ends and yields to the loop what it waits for.

    Args:
        job: The greenlet.
        translate: Turns an exception that arrives at the await into the one that the job shall see.
    """

    __slots__ = ("_job", "_translate")

    def __init__(
        self, job: JobGreenlet, translate: Callable[[BaseException], BaseException]
    ) -> None:
        self._job = job
        self._translate = translate

    def __await__(self) -> Generator[Any, Any, Any]:
        job, translate = self._job, self._translate
        wish = job.begin()
        while not job.ended:
            try:
                answer = yield wish
            except BaseException as exc:  # noqa: BLE001 - cancellation is the job's to handle
                wish = job.throw(translate(exc))
            else:
                wish = job.switch(answer)
        return wish


def is_coroutine(value: Any) -> bool:
    """Whether it is a coroutine, of whatever make.

    The abstract class alone would take a microsecond for each value.
    """
    return type(value) is CoroutineType or isinstance(value, Coroutine)


def is_bridged() -> bool:
    """Whether `wait` may be used here.

    Not so in a child task, even where it was started eagerly and so runs inside the job's greenlet:
    to switch away there would make the driver yield in the child's name.
    """
    current = getcurrent()
    return isinstance(current, JobGreenlet) and (
        not _EAGER or asyncio.current_task() is current.driver
    )


def wait(awaitable: Awaitable[T]) -> T:
    """Await from plain code in a job's greenlet, and give what the awaitable gives.

    Only where `is_bridged`.
    """
    steps: Any = awaitable if is_coroutine(awaitable) else awaitable.__await__()
    parent = getcurrent().parent
    assert parent is not None  # noqa: S101 - a job's greenlet has one
    switch = parent.switch
    answer: Any = None
    error: BaseException | None = None
    while True:
        try:
            if error is None:
                wish = steps.send(answer)
            else:
                thrown, error = error, None
                wish = steps.throw(thrown)
        except StopIteration as done:
            result: T = done.value
            return result
        try:
            answer = switch(wish)
        except BaseException as exc:  # noqa: BLE001 - the awaitable decides
            error = exc


def call(function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Call a blocking function without blocking the loop.

    In a thread where bridged, else right here.

    The function sees the job's request. A first cancellation waits for the thread, because half a
    publish cannot be taken back; a second one does not, so that a dead broker cannot hold a job for
    ever.
    """
    current = getcurrent()
    if not isinstance(current, JobGreenlet) or not is_bridged():
        return function(*args, **kwargs)
    context = copy_context()
    future = asyncio.get_running_loop().run_in_executor(
        current.executor, lambda: context.run(function, *args, **kwargs)
    )
    return wait(_patiently(future))


async def _patiently(future: "asyncio.Future[T]") -> T:
    cancelled: BaseException | None = None
    while not future.done():
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError as exc:
            if cancelled is not None:
                raise
            cancelled = exc
    if cancelled is not None:
        if not future.cancelled():
            future.exception()  # seen, though the cancellation matters more
        raise cancelled
    return future.result()
