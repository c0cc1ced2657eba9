"""Reports of a job: that it began, that a limit passed, and how it ended."""

from collections.abc import Callable
from typing import Any, Protocol

from worker.aio.settling import report


class Reports(Protocol):
    """Celery's request, or an object with the same four methods."""

    def on_accepted(self, pid: int, time_accepted: float, /) -> Any:
        """The job began; takes its number and the monotonic time."""

    def on_timeout(self, soft: bool, timeout: float, /) -> Any:  # noqa: FBT001 - Celery's signature
        """A limit passed; takes whether it is the soft one, and the limit in seconds."""

    def on_success(self, answer: Any, /) -> Any:
        """The tracer returned."""

    def on_failure(self, info: Any, /) -> Any:
        """The tracer raised, or the job was terminated; takes an `ExceptionInfo`."""


class Callbacks:
    """Reports by four functions, each of which may be missing."""

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
        """The request, if the functions are its methods."""

    def on_accepted(self, pid: int, time_accepted: float, /) -> Any:
        """The job began."""
        return self._accepted and self._accepted(pid, time_accepted)

    def on_timeout(self, soft: bool, timeout: float, /) -> Any:  # noqa: FBT001 - as in `Reports`
        """A limit passed."""
        if self._timed_out:
            report(self._timed_out, soft, timeout)

    def on_success(self, answer: Any, /) -> Any:
        """The tracer returned."""
        if self._succeeded:
            report(self._succeeded, answer)

    def on_failure(self, info: Any, /) -> Any:
        """The tracer raised, or the job was terminated."""
        if self._failed:
            report(self._failed, info)
