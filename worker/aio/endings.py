"""How the end of a job's body is told to Celery's tracer.

As the errors that it knows, with their tracebacks.
"""

import asyncio
from enum import Enum
from typing import Any

from billiard.einfo import ExceptionInfo
from billiard.exceptions import SoftTimeLimitExceeded, WorkerLostError

from worker.aio.errors import SoftTimeLimit, UnexpectedCancellation, WorkerLost


class Over(Enum):
    """Why a job is over before its body is."""

    LOST = "lost too often to run again"
    REVOKED = "revoked while it waited"
    TERMINATED = "terminated"
    TIMED_OUT = "timed out"


def as_the_tracer_knows_it(exc: BaseException) -> BaseException:
    """Give the error that the tracer shall see in place of what a coroutine raised."""
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
    # Python 3.11's TaskGroup wraps what its body raised, unless it is CancelledError itself and not
    # a kind of it.
    return group.split(SoftTimeLimit)[1] is None


def _limit_of(exc: BaseException) -> tuple[Any, ...]:
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    return exc.args


def unexpected(exc: BaseException) -> UnexpectedCancellation:
    """The error of a coroutine that was cancelled by nobody of the pool's."""
    return UnexpectedCancellation(
        "the coroutine was cancelled, and nobody had asked for it"
    ).with_traceback(exc.__traceback__)


def lost(exc: BaseException) -> WorkerLostError:
    """The error of a job that would have ended its process in another pool."""
    what = str(exc) if isinstance(exc, WorkerLost) else repr(exc)
    return WorkerLostError(f"the task meant to end its worker: {what}").with_traceback(
        exc.__traceback__
    )


def info_of(exc: BaseException) -> ExceptionInfo:
    """An error as billiard reports it, with a traceback."""
    if exc.__traceback__ is None:  # billiard cannot do without
        try:
            raise exc  # noqa: TRY301 - only for its traceback
        except BaseException:  # noqa: BLE001 - raised one line above
            return ExceptionInfo()
    return ExceptionInfo((type(exc), exc, exc.__traceback__))
