"""Reports a job's start, its time limits and its end, and settles its message even if that fails.

When Celery's request reports an end, it writes to the result store before it settles the message.
If the store rejects the write, the message would stay unacknowledged until the worker ends: its
lease would be renewed, and it would take a place in the prefetch window. So it is settled here.
"""

import logging
from collections.abc import Callable
from typing import Any, Protocol

import redis
from celery.exceptions import BackendError
from celery.worker.request import Request
from kombu.exceptions import OperationalError

logger = logging.getLogger(__name__)

_STORE_ERRORS = (redis.RedisError, BackendError, OperationalError, OSError)


def report(method: Callable[..., Any], *args: Any) -> None:
    """Call a request's method that reports an end; if the method raises, settle the message.

    It runs on the consumer's thread. Exceptions of functions that are not a request's methods are
    not caught.
    """
    try:
        method(*args)
    except Exception as exc:
        request = getattr(method, "__self__", None)
        if not isinstance(request, Request):
            raise
        settle(request, exc)


def settle(request: Any, exc: Exception) -> None:
    """Settle a job's message after the report of the job's end has failed.

    If the result store has rejected the report, the message goes back to its queue. After any other
    error the message is acknowledged, like the message of a failed job, because the error would
    come again. A message that is already settled is left alone.
    """
    if isinstance(exc, _STORE_ERRORS):
        words = "cannot report the end of %s (%s: %s), so its message goes back to the queue"
        logger.error(words, request.humaninfo(), type(exc).__name__, exc)
    else:
        words = "cannot report the end of %s, so its message is acknowledged without a report"
        logger.error(words, request.humaninfo(), exc_info=exc)
    try:
        if isinstance(exc, _STORE_ERRORS):
            request.reject(requeue=True)
        else:
            request.acknowledge()
    except Exception as error:  # noqa: BLE001 - of any broker; the message is delivered again
        words = "cannot settle the message of %s (%s); the broker delivers it again"
        logger.error(words, request.humaninfo(), error)  # noqa: TRY400


class Reports(Protocol):
    """Celery's request, or an object with the same four methods."""

    def on_accepted(self, pid: int, time_accepted: float, /) -> Any:
        """Report that the job began, with its number and the monotonic time."""

    def on_timeout(self, soft: bool, timeout: float, /) -> Any:  # noqa: FBT001 - Celery's signature
        """Report that a time limit passed: whether it is the soft one, and the limit in seconds."""

    def on_success(self, answer: Any, /) -> Any:
        """Report the tracer's return value."""

    def on_failure(self, info: Any, /) -> Any:
        """Report that the tracer raised or the job was terminated, with an `ExceptionInfo`."""


class Callbacks:
    """Reports that go to four functions, each of which may be missing."""

    __slots__ = ("_accepted", "_failed", "_succeeded", "_timed_out", "request")

    def __init__(
        self,
        *,
        accepted: Callable[..., Any] | None,
        timed_out: Callable[..., Any] | None,
        succeeded: Callable[..., Any] | None,
        failed: Callable[..., Any] | None,
    ) -> None:
        self._accepted, self._timed_out, self._succeeded, self._failed = (
            accepted,
            timed_out,
            succeeded,
            failed,
        )
        self.request = getattr(accepted, "__self__", None)
        """Celery's request, if the functions are methods of one."""

    def on_accepted(self, pid: int, time_accepted: float, /) -> Any:
        """Report that the job began."""
        return self._accepted and self._accepted(pid, time_accepted)

    def on_timeout(self, soft: bool, timeout: float, /) -> Any:  # noqa: FBT001 - as in `Reports`
        """Report that a time limit passed."""
        if self._timed_out:
            report(self._timed_out, soft, timeout)

    def on_success(self, answer: Any, /) -> Any:
        """Report the tracer's return value."""
        if self._succeeded:
            report(self._succeeded, answer)

    def on_failure(self, info: Any, /) -> Any:
        """Report that the tracer raised, or that the job was terminated."""
        if self._failed:
            report(self._failed, info)
