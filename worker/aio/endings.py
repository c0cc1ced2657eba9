"""Translates the errors that end a job's body into those that Celery's tracer knows."""

import asyncio
from enum import Enum
from typing import Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import SoftTimeLimitExceeded, WorkerLostError

from worker.aio.errors import SoftTimeLimit, UnexpectedCancellation, WorkerLost


class Over(Enum):
    """Why a job ended before its body did."""

    LOST = "lost too often to run again"
    REVOKED = "revoked while it waited"
    TERMINATED = "terminated"
    TIMED_OUT = "timed out"


def for_tracer(exc: BaseException) -> BaseException:
    """Return the error that the tracer should see in place of the one that a coroutine raised."""
    if isinstance(exc, SoftTimeLimit) or (
        isinstance(exc, BaseExceptionGroup) and _is_soft_limit(exc)
    ):
        limit: BaseException = SoftTimeLimitExceeded(*_limit_of(exc))
        return limit.with_traceback(exc.__traceback__)
    if isinstance(exc, asyncio.CancelledError):
        return unexpected(exc)
    if isinstance(exc, MemoryError):
        return WorkerLost(repr(exc))
    return exc


def _is_soft_limit(group: BaseExceptionGroup[BaseException]) -> bool:
    # Python 3.11's TaskGroup wraps what its body raised, except CancelledError itself. It also
    # wraps subclasses of that.
    return group.split(SoftTimeLimit)[1] is None


def _limit_of(exc: BaseException) -> tuple[Any, ...]:
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc.args


def unexpected(exc: BaseException) -> UnexpectedCancellation:
    """The error of a coroutine that the pool did not cancel."""
    return UnexpectedCancellation(
        "the coroutine was cancelled, and neither a limit nor an order was the reason"
    ).with_traceback(exc.__traceback__)


def lost(exc: BaseException) -> WorkerLostError:
    """The error of a job that would have ended its process in another pool."""
    what = str(exc) if isinstance(exc, WorkerLost) else repr(exc)
    return WorkerLostError(f"the task tried to end its worker: {what}").with_traceback(
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
