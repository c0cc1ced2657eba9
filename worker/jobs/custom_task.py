"""Tasks that are not ours, and draw keys by `worker.clients`: how their jobs wait for a key."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NoReturn

from celery import Task
from celery.exceptions import TaskPredicate

from config.settings import get_settings
from worker.aio import private_loop
from worker.errors import Deferred, JobError, TransientError
from worker.jobs.history import HEADER
from worker.jobs.job_run import JobRun, current_run
from worker.jobs.outages import NOBODY_COUNTS, Outages
from worker.jobs.ownership import Ownership

_MOST_CAUSES = 16

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
            token = current_run.set(job_run)
            try:
                return await run(*args, **kwargs)
            except TaskPredicate:
                raise
            except Exception as exc:
                await _reschedule(job_run, exc)
                raise
            finally:
                current_run.reset(token)

        return awaited

    @functools.wraps(run)
    def called(*args: Any, **kwargs: Any) -> Any:
        job_run = _begin(task, None, NOBODY_COUNTS)
        token = current_run.set(job_run)
        try:
            return run(*args, **kwargs)
        except TaskPredicate:
            raise
        except Exception as exc:
            _wait_for(_reschedule(job_run, exc))
            raise
        finally:
            current_run.reset(token)

    return called


def _begin(task: Task, ownership: Ownership | None, outages: Outages) -> JobRun:
    job_run = JobRun(task, settings=get_settings(), ownership=ownership, outages=outages)
    if HEADER in (task.request.headers or {}):
        job_run.end_if_too_late(may_be_done=False)
    return job_run


async def _reschedule(job_run: JobRun, exc: Exception) -> None:
    """Raise what the causes of an error mean for the job; return where they mean nothing."""
    for cause in _causes_of(exc):
        if isinstance(cause, Deferred | TransientError):
            await job_run.reschedule(cause)
        if isinstance(cause, JobError):
            _end(cause, exc)


def _end(cause: JobError, exc: Exception) -> NoReturn:
    if cause is exc:
        raise cause
    raise cause from None


def _causes_of(exc: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = exc
    for _ in range(_MOST_CAUSES):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _wait_for(coroutine: Coroutine[Any, Any, None]) -> None:
    loop = private_loop.pool_loop()
    if loop is None:
        private_loop.run(coroutine)
    else:
        asyncio.run_coroutine_threadsafe(coroutine, loop).result()
