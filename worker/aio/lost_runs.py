"""Limits how often a job may be lost with its worker before the job fails.

`task_reject_on_worker_lost` sends a job back to its queue if its worker was lost. In this pool, a
job that raises `SystemExit` does not end the process. Without a pause and a limit, the job would
come back at once, hundreds of times a second, for ever. So it waits before it goes back, longer
each time, and fails after a number of lost runs. Runs during which a worker died count as well: our
transport notes them in the message.
"""

import asyncio
import logging
from collections import OrderedDict
from typing import Any, Final, Protocol

from billiard.einfo import ExceptionInfo

from worker.aio.consumer_calls import ConsumerCalls
from worker.aio.errors import LostTooOften
from worker.aio.transport.headers import DEATHS

logger = logging.getLogger(__name__)

LOST_RUNS: Final = "lost_runs"
"""The header with the number of lost runs that did not end the process."""
_LONGEST_PAUSE_S: Final = 60.0
_REMEMBERED: Final = 10_000
"""The most jobs whose count this process keeps, for brokers that cannot change a header."""


class FailureReport(Protocol):
    """Receives the report of a job's failure."""

    def on_failure(self, info: Any, /) -> Any:
        """Report that the job failed, with an `ExceptionInfo`."""


class LostRuns:
    """The policy for lost jobs: they go back to their queue after a pause, or fail.

    Args:
        calls: Runs reports on the consumer's thread.
        loop: The pool's loop, for timers.
        most: The number of lost runs after which a job fails; 0 for no limit.
        pause_s: The pause before a job goes back for the first time, in seconds. The pause doubles
            each time, up to a minute.
    """

    def __init__(
        self, calls: ConsumerCalls, loop: asyncio.AbstractEventLoop, *, most: int, pause_s: float
    ) -> None:
        self._calls = calls
        self._loop = loop
        self._most = most
        self._pause_s = pause_s
        self._counts: OrderedDict[str, int] = OrderedDict()

    def refuse(self, headers: Any) -> ExceptionInfo | None:
        """Return the failure of a job that has had too many lost runs; None for any other job."""
        lost = _count_in(headers)
        return self._failure(lost) if self._most and lost >= self._most else None

    def report(self, reports: FailureReport, request: Any, info: ExceptionInfo) -> None:
        """Report a lost run, now or after a pause. On the consumer's thread."""
        if not _is_requeued(request):
            reports.on_failure(info)
            return
        lost = self._note(request)
        if self._most and lost >= self._most:
            reports.on_failure(self._failure(lost))
            return
        pause_s = min(self._pause_s * 2 ** min(lost - 1, 16), _LONGEST_PAUSE_S)
        logger.warning(
            "%s goes back to its queue in %g s: run %d was lost", request.humaninfo(), pause_s, lost
        )
        self._loop.call_soon_threadsafe(
            self._loop.call_later, pause_s, self._calls.post, reports.on_failure, info
        )

    def _note(self, request: Any) -> int:
        """Count a lost run, in the message if the broker can change it; return the new count."""
        headers = request.request_dict
        here = max(self._counts.pop(request.id, 0), _number(headers, LOST_RUNS)) + 1
        self._counts[request.id] = here
        if len(self._counts) > _REMEMBERED:
            self._counts.popitem(last=False)
        message = request.message
        message.headers[LOST_RUNS] = here
        if add_headers := getattr(message.channel, "add_headers", None):
            try:
                add_headers(message, {LOST_RUNS: here})
            except Exception as exc:  # noqa: BLE001 - an error of any broker; this process counts
                logger.warning(
                    "cannot note in the broker that a run of %s was lost (%s); only this worker "
                    "counts it",
                    request.humaninfo(),
                    exc,
                )
        return here + _number(headers, DEATHS)

    def _failure(self, lost: int) -> ExceptionInfo:
        try:
            raise LostTooOften(  # noqa: TRY301 - for its traceback
                f"{lost} runs of this job were lost with their worker, so it does not run again"
            )
        except LostTooOften:
            return ExceptionInfo()


def _is_requeued(request: Any) -> bool:
    """Whether Celery sends the message back to its queue."""
    task = getattr(request, "task", None)
    # `retry_on_worker_lost` has its own limit and its own pause.
    return bool(
        task and task.acks_late and task.reject_on_worker_lost and not task.retry_on_worker_lost
    )


def _count_in(headers: Any) -> int:
    return _number(headers, LOST_RUNS) + _number(headers, DEATHS)


def _number(headers: Any, name: str) -> int:
    number = headers.get(name) if isinstance(headers, dict) else None
    return number if type(number) is int and number > 0 else 0
