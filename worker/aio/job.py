"""One job of the pool.

How it starts, is limited, is cancelled, and how its end is reported exactly once.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, Final

from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated

from worker.aio import bridge, endings, revoking, stacks
from worker.aio.endings import Over
from worker.aio.errors import JobGone, Revoked, SoftTimeLimit, UnexpectedCancellation
from worker.aio.job_host import Host
from worker.aio.loop_thread import start_task
from worker.aio.reports import Callbacks, Reports

logger = logging.getLogger(__name__)

INSIST_S = 1.0
"""How long a coroutine that swallowed its cancellation is left alone before the next one, in seconds."""

_TRACED: Final = 6
"""Arguments of Celery's trace functions."""

_pids = itertools.count(1)


class Job:
    """A traced task: `target(*args)`, and who is told of it.

    Everything but `terminate` happens on the loop's thread, or, for a plain `def` task, in a thread
    of the pool. The end is reported once: as timed out (`on_timeout`), as terminated (`on_failure`
    with `Terminated`), or with what the tracer gave; whatever comes after a report is dropped.

    Args:
        host: The pool.
        target: Celery's trace function.
        args: Its arguments; the first is the task's name, the second its id.
        reports: Who is told.
        in_thread: Whether the task is plain `def`.
        soft_timeout_s: The soft time limit in seconds.
        timeout_s: The hard time limit in seconds.
    """

    __slots__ = (
        "__weakref__",
        "_args",
        "_begun",
        "_done",
        "_doomed",
        "_hard_timer",
        "_host",
        "_over",
        "_prolonged",
        "_reports",
        "_soft_pending",
        "_soft_timeout_s",
        "_soft_timer",
        "_target",
        "_timeout_s",
        "body_ended",
        "driver",
        "in_thread",
        "pid",
        "waits_for_store",
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
        self.driver: asyncio.Task[None] | None = None
        self._host = host
        self._target = target
        self._args = args
        self._reports = reports
        self._soft_timeout_s = soft_timeout_s
        self._timeout_s = timeout_s
        self._soft_timer: asyncio.TimerHandle | None = None
        self._hard_timer: asyncio.TimerHandle | None = None
        """The hard limit; once the job is over, the next cancellation."""
        self._over: Over | None = None
        self._doomed: int | None = None
        self._begun = False
        self.body_ended = False
        self.waits_for_store = False
        """Whether the result store is full or away, and this job has a result for it."""
        self._prolonged = False
        self._soft_pending = False
        self._done = False

    @property
    def name(self) -> str:
        """The task's name."""
        return str(self._args[0]) if self._args else repr(self._target)

    @property
    def task_id(self) -> str:
        """The task's id."""
        return str(self._args[1]) if len(self._args) > 1 else ""

    @property
    def delivery_tag(self) -> str | None:
        """How the broker knows the message, where the task came by one."""
        request = self._headers
        properties = request.get("properties") if isinstance(request, dict) else None
        return properties.get("delivery_tag") if isinstance(properties, dict) else None

    @property
    def _headers(self) -> Any:
        """The message's headers, with what Celery puts beside them."""
        return self._args[2] if len(self._args) > 2 else None  # noqa: PLR2004 - name, id, request

    @property
    def _request(self) -> Any:
        """Celery's request, where that is who is told."""
        reports = self._reports
        return reports.request if isinstance(reports, Callbacks) else reports

    def __str__(self) -> str:
        return f"{self.name}[{self.task_id}]"

    # -- start and end, on the loop's thread

    def start(self) -> None:
        """Run. The pool has a slot for it."""
        work: Coroutine[Any, Any, None] = (
            self._drive_thread() if self.in_thread else self._drive_greenlet()
        )
        self.driver = start_task(work, loop=self._host.loop, context=stacks.context_of(self))

    async def _drive_greenlet(self) -> None:
        if self.driver is None:  # it was started eagerly, before anybody could note it
            self.driver = asyncio.current_task()
        report = None
        if self._begin():
            greenlet = self._host.greenlets.take(self._run, self.driver)
            report = await bridge.Drive(greenlet, self._translate)
            self._host.greenlets.give_back(greenlet)
        self._end(report)

    async def _drive_thread(self) -> None:
        loop = self._host.loop
        report = None
        try:
            report = await loop.run_in_executor(
                self._host.task_threads, stacks.context_of(self).run, self._run_in_thread
            )
        except RuntimeError:  # the threads were shut down before this one began
            logger.debug("%s never began", self)
        self._end(report)

    def _run_in_thread(self) -> Any:
        # Accepted and timed only now: until a thread was free it had not begun.
        if not self._begin():
            return None
        return self._run()

    def _begin(self) -> bool:
        """Report the job as accepted; false if nothing of it may run.

        It was revoked or terminated meanwhile.
        """
        self._begun = True
        if self._doomed is None and revoking.is_revoked(self._request):
            self._over = Over.REVOKED
            return False
        self._host.calls.post(self._reports.on_accepted, self.pid, time.monotonic())
        if self._doomed is not None:
            self._over = Over.TERMINATED
            return False
        if self._host.lost_runs.refuse(self._headers) is not None:
            self._over = Over.LOST
            return False
        if self._timeout_s or self._soft_timeout_s:
            if self.in_thread:
                self._host.loop.call_soon_threadsafe(self._set_limits)
            else:
                self._set_limits()
        return True

    def _set_limits(self) -> None:
        if self._done or self._over is not None:
            return
        if self._soft_timeout_s:
            self._soft_timer = self._host.loop.call_later(self._soft_timeout_s, self._on_soft_limit)
        if self._timeout_s:
            self._hard_timer = self._host.loop.call_later(self._timeout_s, self._on_hard_limit)

    def _run(self) -> Any:
        """Trace the task, and give the callback with its argument."""
        try:
            if len(self._args) == _TRACED:
                # Spelled out, because a call with a star goes through C.
                name, task_id, request, body, content_type, content_encoding = self._args
                return self._reports.on_success, self._target(
                    name, task_id, request, body, content_type, content_encoding
                )
            return self._reports.on_success, self._target(*self._args)
        except Exception:  # noqa: BLE001 - a Reject out of the tracer, above all; the request handles it
            return self._reports.on_failure, ExceptionInfo()
        except asyncio.CancelledError as exc:
            return self._reports.on_failure, endings.info_of(endings.unexpected(exc))
        except BaseException as exc:  # noqa: BLE001 - SystemExit and the like must not end the worker
            return (
                self._host.lost_runs.report,
                self._reports,
                self._request,
                endings.info_of(endings.lost(exc)),
            )

    def _end(self, report: Any) -> None:
        self._done = True
        self._stop_timers()
        try:
            if self._over is Over.TERMINATED:
                report = self._reports.on_failure, endings.info_of(Terminated(self._doomed))
            elif self._over is Over.LOST:
                report = self._reports.on_failure, self._host.lost_runs.refuse(self._headers)
            elif self._over is Over.REVOKED:
                report = revoking.announce, self._request
            elif self._over is Over.TIMED_OUT:
                report = None
            if report is not None:
                self._host.calls.post(*report)
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
        """Call the task's body and await what it gives, so that the tracer sees a plain function.

        Raises:
            JobGone: The job's end was reported while the body ran, or the body found that the job
                is revoked.
            SoftTimeLimitExceeded: The body let the soft limit pass through.
            UnexpectedCancellation: The body ended as cancelled, and nobody had cancelled it.
            WorkerLost: The body ran out of memory.
        """
        try:
            result = self.complete(run(*args, **kwargs))
        except BaseException as exc:
            self.body_ended = True
            if isinstance(exc, Revoked) and self._over is None:
                self._over = Over.REVOKED
            if self._over is not None:
                raise JobGone from exc
            seen = endings.for_tracer(exc)
            if seen is exc:
                raise
            raise seen from (exc if isinstance(seen, UnexpectedCancellation) else None)
        self.body_ended = True
        if self._over is not None:
            raise JobGone
        return result

    def complete(self, value: Any) -> Any:
        """Await a coroutine from the tracer, wherever that runs; give any other value as it is."""
        if not bridge.is_coroutine(value):
            return value
        if bridge.is_bridged():
            return bridge.wait(value)
        return asyncio.run_coroutine_threadsafe(value, self._host.loop).result()

    async def call_in_thread(self, call: Callable[[], Any]) -> Any:
        """Call plain code of this job where plain tasks run."""
        return await self._host.loop.run_in_executor(
            self._host.task_threads, copy_context().run, call
        )

    # -- limits and cancellation, on the loop's thread

    def terminate(self, signum: int | None = None) -> None:
        """Cancel the job, or keep it from starting.

        From any thread; repeated calls do nothing more.
        """
        if self._doomed is None:
            self._doomed = signum or 0
            try:
                self._host.loop.call_soon_threadsafe(self._cut, Over.TERMINATED)
            except RuntimeError:
                logger.debug("%s: the loop is closed already", self)

    def _cut(self, why: Over) -> None:
        # Before its first step a driver must not be cancelled: asyncio would drop it unstarted, and
        # nobody would report its end. `_begin` sees the order to die as well.
        if self._begun and self._over is None and not self._done:
            self._over = why
            self._stop_timers()
            # Its body may swallow each cancellation, or stand in a thread: nobody shall wait for
            # it.
            self._host.jobs.on_over(self)
            self._insist()

    def _insist(self) -> None:
        # A thread cannot be cancelled: its job was reported, and what it gives later is dropped.
        if not self._done and not self.in_thread and self.driver is not None:
            self.driver.cancel()
            self._hard_timer = self._host.loop.call_later(INSIST_S, self._insist)

    def _on_soft_limit(self) -> None:
        # Once the body has ended the tracer only stores and reports: the limit has nothing left to
        # protect.
        if self.body_ended or self._done or self._over is not None:
            return
        self._host.calls.post(self._reports.on_timeout, True, self._soft_timeout_s)
        if not self.in_thread and self.driver is not None:
            self._soft_pending = True
            self.driver.cancel()

    def _on_hard_limit(self) -> None:
        if self._done or self._over is not None:
            return
        # What has been done is not undone by a result store that is away, however long. Storing it,
        # and hooks, have as long again.
        if self.body_ended and (self.waits_for_store or not self._prolonged):
            self._prolonged = self._prolonged or not self.waits_for_store
            self._hard_timer = self._host.loop.call_later(self._timeout_s or 0, self._on_hard_limit)
            return
        self._host.calls.post(self._reports.on_timeout, False, self._timeout_s)
        self._cut(Over.TIMED_OUT)

    def _translate(self, exc: BaseException) -> BaseException:
        """Make the soft limit out of the cancellation that carries it."""
        if self._soft_pending and isinstance(exc, asyncio.CancelledError):
            self._soft_pending = False
            if self._over is None and self.driver is not None:
                # Not a cancellation after all: `asyncio.timeout` around the await must not count
                # it.
                self.driver.uncancel()
                return SoftTimeLimit(self._soft_timeout_s)
        return exc
