"""Runs one job of the pool: its start, its limits, its cancellation, and one report of its end."""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Final

from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated

from worker.aio import bridge, endings, revoking, stacks
from worker.aio.endings import EndReason
from worker.aio.errors import JobGone, Revoked, SoftTimeLimit, UnexpectedCancellation
from worker.aio.job_host import Host
from worker.aio.loop_thread import start_task
from worker.aio.reports import Callbacks, Reports

logger = logging.getLogger(__name__)

CANCEL_INTERVAL_S = 1.0
"""The time between two cancellations of a coroutine that suppresses them, in seconds."""
LIMIT_POSTPONED_S = 1.0
"""How long a soft limit is postponed if it is due while limits are held, in seconds."""

_TRACED: Final = 6
"""The number of arguments of Celery's trace functions."""

_pids = itertools.count(1)


class Job:
    """A job: one call of Celery's tracer, `target(*args)`, and its reports.

    Everything but `terminate` runs on the loop's thread, or, for a plain `def` task, in a thread of
    the pool. The end is reported once: as timed out (`on_timeout`), as terminated (`on_failure`
    with `Terminated`), or with the tracer's return value. A result that comes later is dropped.

    Args:
        host: The pool.
        target: Celery's trace function.
        args: The arguments of `target`; the first is the task's name, the second the job's id.
        reports: Celery's request, or its callbacks.
        in_thread: Whether the task is a plain function.
        soft_timeout_s: The soft time limit in seconds.
        timeout_s: The hard time limit in seconds.
    """

    __slots__ = (
        "__weakref__",
        "_args",
        "_begun",
        "_done",
        "_end_reason",
        "_hard_limit_renewed",
        "_hard_timer",
        "_host",
        "_reports",
        "_signum",
        "_soft_pending",
        "_soft_timeout_s",
        "_soft_timer",
        "_target",
        "_timeout_s",
        "body_ended",
        "driver",
        "errors",
        "in_thread",
        "pid",
        "redis_waits",
    )

    def __init__(
        self,
        host: Host,
        target: Callable[..., Any],
        args: tuple[Any, ...],
        reports: Reports,
        *,
        in_thread: bool,
        soft_timeout_s: float | None = None,
        timeout_s: float | None = None,
    ) -> None:
        self.pid = next(_pids)
        self.in_thread = in_thread
        self.driver: asyncio.Task[Any] | None = None
        self._host = host
        self._target = target
        self._args = args
        self._reports = reports
        self._soft_timeout_s = soft_timeout_s
        self._timeout_s = timeout_s
        self._soft_timer: asyncio.TimerHandle | None = None
        self._hard_timer: asyncio.TimerHandle | None = None
        """The timer of the hard limit; once the end is decided, of the next cancellation."""
        self._end_reason: EndReason | None = None
        self._signum: int | None = None
        self._begun = False
        self.body_ended = False
        self.redis_waits = 0
        """How many `HeldTimeLimits` are active; no limit ends the job while there are any."""
        self._hard_limit_renewed = False
        self._soft_pending = False
        self._done = False
        self.errors: tuple[BaseException, ...] = ()
        """The errors that the tracer has handled."""

    @property
    def name(self) -> str:
        """The task's name."""
        return str(self._args[0]) if self._args else repr(self._target)

    @property
    def task_id(self) -> str:
        """The job's id."""
        return str(self._args[1]) if len(self._args) > 1 else ""

    @property
    def delivery_tag(self) -> str | None:
        """The broker's tag of the job's message, if the job has a message."""
        headers = self._headers
        properties = headers.get("properties") if isinstance(headers, dict) else None
        return properties.get("delivery_tag") if isinstance(properties, dict) else None

    @property
    def _headers(self) -> Any:
        """The message's headers, with the fields that Celery adds."""
        return self._args[2] if len(self._args) > 2 else None  # noqa: PLR2004 - name, id, request

    @property
    def _request(self) -> Any:
        """Celery's request, if it receives the reports."""
        reports = self._reports
        return reports.request if isinstance(reports, Callbacks) else reports

    def __str__(self) -> str:
        return f"{self.name}[{self.task_id}]"

    # -- start and end, on the loop's thread

    def start(self) -> None:
        """Run the job; the pool has a slot for it."""
        work = self._drive_thread() if self.in_thread else self._drive_greenlet()
        start_task(work, loop=self._host.loop, context=stacks.context_of(self), name=self.name)

    async def _drive_greenlet(self) -> None:
        self.driver = asyncio.current_task()  # set here, because the task may start eagerly
        report = None
        if self._begin():
            greenlet = self._host.greenlets.take(self._run, self.driver)
            report = await bridge.drive(greenlet, self._translate)
            self._host.greenlets.give_back(greenlet)
        self._end(report)

    async def _drive_thread(self) -> None:
        self.driver = asyncio.current_task()
        report = None
        try:
            report = await self._host.loop.run_in_executor(
                self._host.task_threads, stacks.context_of(self).run, self._run_in_thread
            )
        except RuntimeError:  # the threads were shut down before this job began
            logger.debug("%s never began", self)
        self._end(report)

    def _run_in_thread(self) -> Any:
        # The job is accepted, and its limits begin, only now that a thread is free.
        return self._run() if self._begin() else None

    def _begin(self) -> bool:
        """Report the job as accepted. Return false if it must not run, for example when revoked."""
        self._begun = True
        if self._signum is None and revoking.is_revoked(self._request):
            self._end_reason = EndReason.REVOKED
            return False
        self._host.calls.post(self._reports.on_accepted, self.pid, time.monotonic())
        if self._signum is not None:
            self._end_reason = EndReason.TERMINATED
            return False
        if self._host.lost_runs.refuse(self._headers) is not None:
            self._end_reason = EndReason.LOST
            return False
        if self._timeout_s or self._soft_timeout_s:
            if self.in_thread:
                self._host.loop.call_soon_threadsafe(self._set_limits)
            else:
                self._set_limits()
        return True

    def _set_limits(self) -> None:
        if self._done or self._end_reason is not None:
            return
        if self._soft_timeout_s:
            self._soft_timer = self._host.loop.call_later(self._soft_timeout_s, self._on_soft_limit)
        if self._timeout_s:
            self._hard_timer = self._host.loop.call_later(self._timeout_s, self._on_hard_limit)

    def _run(self) -> Any:
        """Run Celery's tracer, and return the method that reports the end, with its arguments."""
        try:
            if len(self._args) == _TRACED:
                # Without `*args`, because a call with it takes room on the C stack.
                name, task_id, request, body, content_type, content_encoding = self._args
                answer = self._target(name, task_id, request, body, content_type, content_encoding)
            else:
                answer = self._target(*self._args)
        except asyncio.CancelledError as exc:
            return self._reports.on_failure, endings.info_of(endings.unexpected(exc))
        except BaseException as exc:  # noqa: BLE001 - usually a Reject, which the request handles
            if not endings.costs_the_worker(exc):
                return self._reports.on_failure, ExceptionInfo()
            info = endings.info_of(endings.lost(exc))
            return self._host.lost_runs.report, self._reports, self._request, info
        else:
            return self._reports.on_success, answer

    def _end(self, report: Any) -> None:
        self._done = True
        self._stop_timers()
        self.driver = None  # the driver's context refers to this job
        try:
            if self._end_reason is EndReason.TERMINATED:
                report = self._reports.on_failure, endings.info_of(Terminated(self._signum))
            elif self._end_reason is EndReason.LOST:
                report = self._reports.on_failure, self._host.lost_runs.refuse(self._headers)
            elif self._end_reason is EndReason.REVOKED:
                report = revoking.announce, self._request
            elif self._end_reason is EndReason.TIMED_OUT:
                report = None
            if report is not None:
                self._host.calls.post(*report)
            # After the report, because the report reads the errors.
            if self.errors or (report and isinstance(report[-1], ExceptionInfo)):
                self._host.calls.post(endings.forget, self.errors, report)
        finally:
            self._host.jobs.on_done(self)

    def _stop_timers(self) -> None:
        for timer in (self._soft_timer, self._hard_timer):
            if timer is not None:
                timer.cancel()
        self._soft_timer = self._hard_timer = None

    # -- the body, in the greenlet or thread

    def run_body(
        self, run: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call the task's body and await its coroutine, so that the tracer sees a plain function.

        Raises:
            JobGone: The job's end was decided while the body ran, or the body found that the job
                is revoked.
            SoftTimeLimitExceeded: The body did not catch the soft limit.
            UnexpectedCancellation: The body ended as cancelled, but not by a limit or a revoke.
            WorkerLost: The body ran out of memory.
        """
        try:
            result = self.complete(run(*args, **kwargs))
        except BaseException as exc:
            self.body_ended = True
            if isinstance(exc, Revoked) and self._end_reason is None:
                self._end_reason = EndReason.REVOKED
            if self._end_reason is not None:
                raise JobGone from exc
            if (seen := endings.for_tracer(exc)) is None:
                raise
            raise seen from (exc if isinstance(seen, UnexpectedCancellation) else None)
        self.body_ended = True
        if self._end_reason is not None:
            raise JobGone
        return result

    def complete(self, value: Any) -> Any:
        """Await a coroutine of this job, on any thread; return any other value unchanged."""
        if not bridge.is_coroutine(value):
            return value
        if bridge.is_bridged():
            return bridge.wait(value)
        return asyncio.run_coroutine_threadsafe(value, self._host.loop).result()

    async def call_in_thread(self, call: Callable[[], Any]) -> Any:
        """Call a plain function of this job in one of the threads for plain tasks."""
        return await self._host.loop.run_in_executor(
            self._host.task_threads, copy_context().run, call
        )

    # -- limits and cancellation, on the loop's thread; the end of a job stops the timers

    def terminate(self, signum: int | None = None) -> None:
        """Cancel the job, or prevent its start. From any thread; a second call does nothing."""
        if self._signum is None:
            self._signum = signum or 0
            try:
                self._host.loop.call_soon_threadsafe(self._end_early, EndReason.TERMINATED)
            except RuntimeError:
                logger.debug("%s: the loop is closed already", self)

    def _end_early(self, why: EndReason) -> None:
        # A driver must not be cancelled before its first step: asyncio would never start it, and
        # the job's end would not be reported. `_begin` checks `_signum` instead.
        if self._begun and self._end_reason is None and not self._done:
            self._end_reason = why
            self._stop_timers()
            # Nothing waits for the body: it may suppress each cancellation, or run in a thread.
            self._host.jobs.release_slot(self)
            self._cancel_again()

    def _cancel_again(self) -> None:
        # A thread cannot be cancelled; its job's end is decided, and the result will be dropped.
        if not self.in_thread and self.driver is not None:
            self.driver.cancel()
            self._hard_timer = self._host.loop.call_later(CANCEL_INTERVAL_S, self._cancel_again)

    def _on_soft_limit(self) -> None:
        # After the body has ended, the limit has no purpose: the tracer only stores and reports.
        if self.body_ended:
            return
        if self.redis_waits:
            self._soft_timer = self._host.loop.call_later(LIMIT_POSTPONED_S, self._on_soft_limit)
            return
        self._host.calls.post(self._reports.on_timeout, True, self._soft_timeout_s)
        if not self.in_thread and self.driver is not None:
            self._soft_pending = True
            self.driver.cancel()

    def _on_hard_limit(self) -> None:
        if self._end_reason is not None:  # the body found that the job is revoked
            return
        # A Redis that is away must not undo the job, so a job may wait for Redis for any time.
        # Otherwise, after the body, storing and the hooks may take the limit's time again.
        if self.redis_waits or (self.body_ended and not self._hard_limit_renewed):
            self._hard_limit_renewed = self._hard_limit_renewed or not self.redis_waits
            self._hard_timer = self._host.loop.call_later(self._timeout_s or 0, self._on_hard_limit)
            return
        self._host.calls.post(self._reports.on_timeout, False, self._timeout_s)
        self._end_early(EndReason.TIMED_OUT)

    def _translate(self, exc: BaseException) -> BaseException:
        """Replace the cancellation that the soft limit has caused by the limit's own error."""
        if self._soft_pending and isinstance(exc, asyncio.CancelledError):
            self._soft_pending = False
            if self._end_reason is None and self.driver is not None:
                # An `asyncio.timeout` around the await must not count the limit as a cancellation.
                self.driver.uncancel()
                return SoftTimeLimit(self._soft_timeout_s)
        return exc
