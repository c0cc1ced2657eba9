"""Tasks that are not ours, and draw keys by `worker.clients`: how their jobs wait for a key."""

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
from worker.jobs.outages import NOBODY_COUNTS, Outages
from worker.jobs.ownership import Ownership

_MOST_CAUSES = 16
_MEANT = (
    Deferred,
    TransientError,
    JobError,
    TaskPredicate,
    SoftTimeLimitExceeded,
    Revoked,
    JobGone,
    WorkerLost,
)
"""What an SDK or a group may hide, and the job's tracer must see."""

_OPEN: Final[WeakValueDictionary[str, JobRun]] = WeakValueDictionary()
"""The runs of this process, by the ids of their jobs."""

Shared = Callable[[], tuple[Ownership | None, Outages]]


def wrap(task: Task, shared: Shared) -> Callable[..., Any]:
    """Wrap the body of a task: where no key is free for long, its job comes back when one is.

    SDKs hide what a transport raises behind errors of their own, so its cause is looked for. An
    email that may have been accepted has the job come back, too, to ask again. A task that catches
    the error goes on.

    Args:
        task: The task.
        shared: Gives what the jobs of a worker share. Called on the loop of the pool.

    Returns:
        What is to be run instead of `task.run`.
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
    """Refuse all further calls of a job that has ended, though its code may still run.

    A plain function in a thread cannot be stopped. From any thread.
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
    """Let the calls of a task know their job; end what the task has left open."""
    token = current_run.set(job_run)
    try:
        with stamped(job_run.task.request):
            yield
    finally:
        job_run.has_ended = True
        current_run.reset(token)
        for end in tuple(job_run.at_end):
            end()


async def _reschedule(job_run: JobRun, exc: BaseException) -> None:
    """Raise what the causes of an error mean for the job; return where they mean nothing."""
    meaning = meaning_of(exc)
    if isinstance(meaning, Deferred | TransientError):
        await job_run.reschedule(meaning)
    if meaning is not None and meaning is not exc:
        raise meaning from None


def meaning_of(exc: BaseException) -> BaseException | None:
    """Find the error that an error of a task stands for.

    SDKs raise their own errors from what a transport raises, and a `TaskGroup` collects the errors
    of its tasks. A group has a meaning if each of its errors has one, or if one of them ends the
    job, which outweighs all others.

    Returns:
        What has the job come back, ends it, or is a word of Celery's or of the pool's; None where
        the error stands for itself.
    """
    for cause in _causes_of(exc):
        if isinstance(cause, _MEANT):
            return cause
        if isinstance(cause, BaseExceptionGroup):
            meanings = [meaning_of(inner) for inner in cause.exceptions]
            first = _first_of(meanings)
            if first is not None and (None not in meanings or not isinstance(first, Rescheduled)):
                return first
    return None


def _first_of(meanings: list[BaseException | None]) -> BaseException | None:
    """Return the first error that ends the job, else the longest wait."""
    errors = [error for error in meanings if error is not None]
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
    """Ask the loop of the pool, from the thread of a plain function, what its jobs share.

    Nothing where a coroutine calls the function itself: the loop must not wait for itself.
    """
    loop = private_loop.pool_loop()
    if loop is None or private_loop.is_running_here():
        return None, NOBODY_COUNTS

    async def ask() -> tuple[Ownership | None, Outages]:
        return shared()

    return asyncio.run_coroutine_threadsafe(ask(), loop).result()


def _wait_for(coroutine: Coroutine[Any, Any, None]) -> None:
    loop = private_loop.pool_loop()
    if loop is None:
        private_loop.run(coroutine)
    else:
        asyncio.run_coroutine_threadsafe(coroutine, loop).result()
