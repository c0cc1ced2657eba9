"""Translates the errors that end a job's body into errors that Celery's tracer knows."""

import asyncio
from collections.abc import Iterable
from enum import Enum
from typing import Any, Final

from billiard.einfo import ExceptionInfo
from billiard.exceptions import SoftTimeLimitExceeded, WorkerLostError
from celery.exceptions import Retry, TaskPredicate

from worker.aio.errors import SoftTimeLimit, UnexpectedCancellation, WorkerLost

_COSTLY: Final = (SystemExit, KeyboardInterrupt, GeneratorExit, WorkerLost)


class EndReason(Enum):
    """The reason for which the pool ended a job before the job's body ended."""

    LOST = "lost too often to run again"
    REVOKED = "revoked while it waited"
    TERMINATED = "terminated"
    TIMED_OUT = "timed out"


def for_tracer(exc: BaseException) -> BaseException | None:
    """Return the error that the tracer should see instead of a coroutine's error.

    Returns:
        The other error; None if the tracer should see the coroutine's error itself.
    """
    if isinstance(exc, SoftTimeLimit) or (
        isinstance(exc, BaseExceptionGroup) and _is_soft_limit(exc)
    ):
        limit: BaseException = SoftTimeLimitExceeded(*_first_of(exc).args)
        return limit.with_traceback(exc.__traceback__)
    if isinstance(exc, asyncio.CancelledError):
        return unexpected(exc)
    if isinstance(exc, MemoryError):
        return WorkerLost(repr(exc))
    if isinstance(exc, ExceptionGroup) and exc.split(TaskPredicate)[1] is None:
        return _first_of(exc)
    return None


def _is_soft_limit(group: BaseExceptionGroup[BaseException]) -> bool:
    # Python 3.11's TaskGroup wraps every error of its body except CancelledError itself, so it
    # wraps SoftTimeLimit, a subclass.
    return group.split(SoftTimeLimit)[1] is None


def _first_of(exc: BaseException) -> BaseException:
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc


def unexpected(exc: BaseException) -> UnexpectedCancellation:
    """Return the error for a coroutine that was cancelled, but not by the pool."""
    return UnexpectedCancellation(
        "the coroutine was cancelled, and neither a time limit nor a revoke was the reason"
    ).with_traceback(exc.__traceback__)


def costs_the_worker(exc: BaseException) -> bool:
    """Whether an error would end the worker's process in another pool."""
    if isinstance(exc, BaseExceptionGroup):
        return exc.subgroup(_COSTLY) is not None
    return isinstance(exc, _COSTLY)


def lost(exc: BaseException) -> WorkerLostError:
    """Return the error for a job that would have ended its process in another pool."""
    words = str(exc) if isinstance(exc, WorkerLost) else repr(exc)
    return WorkerLostError(f"the task tried to end its worker: {words}").with_traceback(
        exc.__traceback__
    )


def info_of(exc: BaseException) -> ExceptionInfo:
    """Convert an error to billiard's form, with a traceback."""
    if exc.__traceback__ is None:  # billiard needs one
        try:
            raise exc  # noqa: TRY301 - only for its traceback
        except BaseException:  # noqa: BLE001 - raised one line above
            return ExceptionInfo()
    return ExceptionInfo((type(exc), exc, exc.__traceback__))


def forget(errors: Iterable[BaseException], report: Iterable[Any] | None) -> None:
    """Break the reference cycles of reported errors, and of the errors that caused them.

    A traceback refers to the frames of the job and the tracer, and the tracer's frame refers to the
    error. Because of that cycle, the job and all of its objects would stay in memory until the
    garbage collector runs.

    Args:
        errors: The errors.
        report: A method and its arguments, some of which may contain further errors.
    """
    infos = (part for part in report or () if isinstance(part, ExceptionInfo))
    left, seen = [*errors, *(info.exception for info in infos)], set[int]()
    while left:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        each.__traceback__ = None
        if isinstance(each, Retry):
            each.args = ()  # Celery puts a Retry into its own arguments
        left += _related_to(each)


def _related_to(exc: BaseException) -> list[BaseException]:
    related = [exc.__cause__, exc.__context__, getattr(exc, "exc", None)]
    if isinstance(exc, BaseExceptionGroup):
        related += exc.exceptions
    return [other for other in related if isinstance(other, BaseException)]
