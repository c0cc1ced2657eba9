"""Lets jobs of the user's own tasks, which draw keys by `worker.clients`, wait for a key."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final
from weakref import WeakValueDictionary

from billiard.exceptions import SoftTimeLimitExceeded
from celery import Task
from celery.exceptions import TaskPredicate

from config.current import get_settings
from worker.aio import private_loop
from worker.aio.errors import JobGone, Revoked, WorkerLost
from worker.cancellations import stamped
from worker.errors import Deferred, JobError, Rescheduled, TransientError
from worker.foreign_json import member
from worker.jobs.history import HEADER
from worker.jobs.job_run import JobRun, current_run
from worker.jobs.outages import NO_OUTAGES, Outages
from worker.jobs.ownership import Ownership

_MOST_CAUSES = 16
_KNOWN_ERRORS = (
    Deferred,
    TransientError,
    JobError,
    TaskPredicate,
    SoftTimeLimitExceeded,
    Revoked,
    JobGone,
    WorkerLost,
)
"""Errors that the job's tracer must see, although an SDK or an exception group may hide them."""

_OPEN: Final[WeakValueDictionary[str, JobRun]] = WeakValueDictionary()
"""The runs of this process, by the ids of their jobs."""

Shared = Callable[[], tuple[Ownership | None, Outages]]


def wrap(task: Task, shared: Shared) -> Callable[..., Any]:
    """Wrap the body of a task, so that its job is deferred if no key is free for long.

    SDKs hide the errors of their transport behind errors of their own, so the causes of an error
    are searched. After an email that may have been accepted, the job also runs again, to ask
    Resend. A task that catches the error itself goes on.

    Args:
        task: The task.
        shared: Returns the objects that the jobs of a worker share. Called on the pool's loop.

    Returns:
        The function that runs instead of `task.run`.
    """
    run = task.run
    if inspect.iscoroutinefunction(run):

        @functools.wraps(run)
        async def awaited(*args: Any, **kwargs: Any) -> Any:
            ownership, outages = shared()
            job_run = _begin(task, ownership, outages)
            with _current(job_run):
                try:
                    return await run(*args, **kwargs)
                except (Exception, BaseExceptionGroup) as exc:
                    await _reschedule(job_run, exc)
                    raise

        return awaited

    @functools.wraps(run)
    def called(*args: Any, **kwargs: Any) -> Any:
        ownership, outages = _of_the_pool(shared)
        job_run = _begin(task, ownership, outages)
        with _current(job_run):
            try:
                return run(*args, **kwargs)
            except (Exception, BaseExceptionGroup) as exc:
                _wait_for(_reschedule(job_run, exc))
                raise

    return called


def end_run(job: str) -> None:
    """Refuse all further calls of a job that has ended, even if its code still runs.

    A plain function in a thread cannot be stopped. May be called from any thread.
    """
    if (job_run := _OPEN.get(job)) is not None:
        job_run.has_ended = True


def _begin(task: Task, ownership: Ownership | None, outages: Outages) -> JobRun:
    job_run = JobRun(task, settings=get_settings(), ownership=ownership, outages=outages)
    if task.request.id:
        _OPEN[task.request.id] = job_run
    if member(task.request.headers, HEADER) is not None:
        job_run.end_if_too_late(may_be_done=False)
    return job_run


@contextmanager
def _current(job_run: JobRun) -> Iterator[None]:
    """Make the run known to the calls of its task; at the end, close what the task left open."""
    token = current_run.set(job_run)
    try:
        with stamped(job_run.task.request):
            yield
    finally:
        job_run.has_ended = True
        current_run.reset(token)
        for end in tuple(job_run.closers):
            end()


async def _reschedule(job_run: JobRun, exc: BaseException) -> None:
    """Reschedule or end the job as the causes of an error demand; return if they demand nothing."""
    known = known_cause(exc)
    if isinstance(known, Deferred | TransientError):
        await job_run.reschedule(known)
    if known is not None and known is not exc:
        raise known from None


def known_cause(exc: BaseException) -> BaseException | None:
    """Find the error of Keywheel, Celery or the pool that an error of a task is or hides.

    SDKs raise their own errors from the errors of a transport, and a `TaskGroup` collects the
    errors of its tasks. A group counts only if each of its errors is or hides such an error, or if
    one of them ends the job. An error that ends the job outweighs all others.

    Returns:
        This error, one of `_KNOWN_ERRORS`; None if there is none.
    """
    for cause in _causes_of(exc):
        if isinstance(cause, _KNOWN_ERRORS):
            return cause
        if isinstance(cause, BaseExceptionGroup):
            causes = [known_cause(inner) for inner in cause.exceptions]
            first = _first_of(causes)
            if first is not None and (None not in causes or not isinstance(first, Rescheduled)):
                return first
    return None


def _first_of(causes: list[BaseException | None]) -> BaseException | None:
    """Return the first error that ends the job; if none does, the one with the longest wait."""
    errors = [error for error in causes if error is not None]
    ends = [error for error in errors if not isinstance(error, Rescheduled)]
    waits = sorted(errors, key=lambda error: -getattr(error, "countdown_ms", 0))
    return next(iter([*ends, *waits]), None)


def _causes_of(exc: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = exc
    for _ in range(_MOST_CAUSES):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _of_the_pool(shared: Shared) -> tuple[Ownership | None, Outages]:
    """Get the shared objects from the pool's loop, in the thread of a plain function.

    If a coroutine calls the function on that loop, there are no shared objects, because the loop
    must not wait for itself.
    """
    loop = private_loop.pool_loop()
    if loop is None or private_loop.is_running_here():
        return None, NO_OUTAGES

    async def ask() -> tuple[Ownership | None, Outages]:
        return shared()

    return asyncio.run_coroutine_threadsafe(ask(), loop).result()


def _wait_for(coroutine: Coroutine[Any, Any, None]) -> None:
    loop = private_loop.pool_loop()
    if loop is None:
        private_loop.run(coroutine)
    else:
        asyncio.run_coroutine_threadsafe(coroutine, loop).result()
