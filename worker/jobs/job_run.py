"""Manages one run of a job: its history, its budgets, and how it goes back to its queue.

A job has three budgets, which are separate:

- rotation: a run tries each key once;
- deferrals: allowed until the deadline of the job; they cost no retry;
- retries: as many as `max_retries` in the settings, with exponential backoff; a failure of all jobs
  (an outage) costs no retry.
"""

import random
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import replace
from functools import cached_property
from typing import Final, NoReturn

from billiard.exceptions import SoftTimeLimitExceeded
from celery import Task, states

from config.settings import Settings
from worker import attempts
from worker.aio.time_limits import HeldTimeLimits
from worker.errors import (
    DeadlineExceeded,
    Deferred,
    JobEnded,
    JobError,
    OutcomeUnknown,
    Rescheduled,
    RetriesExhausted,
    TransientError,
)
from worker.foreign_json import member
from worker.jobs.email_keys import EmailKeys
from worker.jobs.history import History, doubt_ms, was_redelivered
from worker.jobs.message import is_bulk, list_of, tenant_of
from worker.jobs.outages import NO_OUTAGES, Outages
from worker.jobs.ownership import Ownership
from worker.jobs.rescheduling import awaited_service, longest_wait_ms, send_back
from worker.keypool import LeaseRequest
from worker.rotation.served import Served
from worker.verdicts import SERVER_ERROR

TRACK_STARTED: Final = "track_started"
"""The header by which a message asks for the state `STARTED` in the result store.

This costs one write for each run, so only jobs that ask for it pay for it.
"""
_OUTAGE_BACKOFF_S = 10.0
"""The longest backoff in an outage, because the provider's host rests for at most ten seconds.

An email in doubt waits longer each time.
"""
_OUTAGE_STATED_MS = 60_000
"""The longest `retry-after` that a job follows in an outage; a 503 may name an hour.

The outage may end much earlier, and perhaps no other job is there to notice it.
"""


class JobRun:
    """One run of a job. The run begins when the object is made.

    Args:
        task: The bound task, for its request.
        settings: The settings for deadline, retries and waits.
        deadline_s: How long the job may take from its first run on, in seconds; None or 0: as long
            as the settings allow.
        ownership: Checks whether this worker still has the job; None: this is not checked.
        outages: Counts the jobs that wait for the end of an outage.
    """

    def __init__(
        self,
        task: Task,
        *,
        settings: Settings,
        deadline_s: float | None = None,
        ownership: Ownership | None = None,
        outages: Outages = NO_OUTAGES,
    ) -> None:
        self.task: Final = task
        self._began_s: Final = time.monotonic()
        request = task.request
        self.history = History.of(request.headers)
        self.closers: Final[set[Callable[[], None]]] = set()
        """Functions that close what the task may have left open, such as a stream."""
        self.has_ended = False
        """Whether the job has ended; code of it that still runs can make no more calls."""
        self.soft_limit: SoftTimeLimitExceeded | None = None
        """The error of the soft time limit, if it interrupted a call of a client."""
        self._outer = outer = None if request.id else current_run.get()
        """The run of the task that called this task directly; both belong to one job."""
        self.job: str = request.id or ""
        """The id of the job; empty if a program called the task directly."""
        self.can_go_back = bool(request.id and not request.is_eager)
        """Whether the job can go back to its queue."""
        if outer is not None:
            self.job, self.can_go_back = outer.job, outer.can_go_back
        self._models: tuple[str, ...] = ("",)
        self.deadline_s: Final = deadline_s or settings.deadline_s
        self._settings: Final = settings
        self._ownership: Final = ownership
        self._outages: Final = outages
        if outer is None:
            attempts.begin()
            if ownership is not None:
                ownership.begin(request)
        if member(request.headers, TRACK_STARTED) is True:
            task.backend.store_result(request.id, None, states.STARTED, request=request)

    @cached_property
    def email_keys(self) -> EmailKeys:
        """The maker of the idempotency keys of the emails that the job sends."""
        return EmailKeys(self.job) if self._outer is None else self._outer.email_keys

    @property
    def longest_wait_s(self) -> float:
        """How long a call may wait for a key, in seconds.

        It is half of the time left before the soft time limit, but never beyond the deadline.
        """
        if self._outer is not None:
            return self._outer.longest_wait_s
        soft_left_s = self._soft_limit_s - (time.monotonic() - self._began_s)
        left_s = self.deadline_s - self.history.age_s
        return max(0.0, min(soft_left_s / 2, left_s))

    @property
    def _soft_limit_s(self) -> float:
        """The soft time limit of the message, of the task or of the settings, in seconds."""
        _, soft_s = self.task.request.timelimit or (None, None)
        return float(soft_s or self.task.soft_time_limit or self._settings.task_soft_time_limit_s)

    def end_if_over(self) -> None:
        """Refuse a call of code that still runs after its job has ended.

        Raises:
            JobEnded: The job has ended.
        """
        if self.has_ended:
            raise JobEnded
        if self._outer is not None:
            self._outer.end_if_over()

    def of_this_job(self, lease_request: LeaseRequest) -> LeaseRequest:
        """Add the properties of the job that the pool needs to a lease request.

        Raises:
            JobEnded: The job has ended.
        """
        self.end_if_over()
        self._models = tuple(model for model, _ in lease_request.models)
        if self._outer is not None:
            return self._outer.of_this_job(lease_request)
        request = self.task.request
        tenant = tenant_of(request.headers)
        failed_on = {call.key for call in self.history.trail if call.code == SERVER_ERROR}
        return replace(
            lease_request,
            by=request.id or "",
            suspect=len(failed_on) > 1,
            bulk=is_bulk(request.delivery_info),
            waited_ms=round(self.history.age_s * 1000),
            tenant=tenant,
            queue=list_of(request.delivery_info) if tenant else "",
        )

    def join(self, job: str) -> None:
        """Remember the job whose result this job is to share."""
        self.history = replace(self.history, joined=job)

    def after(self, served: Served) -> History:
        """Return the history after this run, which has succeeded."""
        self._outages.passed(awaited_service(self.task), served.model)
        return self.history.after(attempts=served.attempts, waited_ms=served.waited_ms)

    def end_if_too_late(self, *, may_be_done: bool) -> None:
        """Fail a job whose deadline passed before this run, because its caller no longer waits.

        Args:
            may_be_done: Whether the job must not be carried out twice, so that doubt counts.

        Raises:
            JobError: The deadline has passed.
        """
        if self.history.age_s < self.deadline_s:
            return
        request = self.task.request
        over = Rescheduled()
        over.in_doubt = may_be_done and bool(doubt_ms(request.headers) or was_redelivered(request))
        waited = self._no_key() if self.history.deferred else self._no_time(request.retries)
        reason = self.history.reason
        _fail(over, DeadlineExceeded(f"{waited}: {reason}" if reason else waited))

    async def reschedule(self, over: Deferred | TransientError) -> NoReturn:
        """Send the job back to its queue, or end it if its budget is spent.

        The time limits are suspended meanwhile. They are meant for the work, and a job must not end
        because Redis is away or hangs.

        Raises:
            celery.exceptions.Retry: The job runs again later.
            celery.exceptions.Ignore: Another worker has the job.
            JobError: The job ends.
        """
        with HeldTimeLimits():
            await self._reschedule(over)

    async def _reschedule(self, over: Deferred | TransientError) -> NoReturn:
        if self._ownership is not None:
            await self._ownership.end_if_lost()
        if isinstance(over, TransientError):
            await self._retry(over)
        if self.history.age_s >= self.deadline_s:
            _fail(over, DeadlineExceeded(f"{self._no_key()}: {over.reason}"))
        over.countdown_ms = await self._outages.countdown_ms(
            awaited_service(self.task), over.countdown_ms, over.code, models=self._models
        )
        await self._defer(over)

    async def _defer(self, deferred: Deferred) -> NoReturn:
        # Wait at most until just after the deadline: then the job comes back, and ends.
        left_ms = round((self.deadline_s - self.history.age_s) * 1000) + 1000
        longest_ms = min(longest_wait_ms(self.task, self._settings), left_ms)
        countdown_ms = max(1, min(deferred.countdown_ms, longest_ms))
        why = Deferred(countdown_ms, deferred.reason, deferred.code, deferred.ends_in_ms)
        history = self._with(
            deferred,
            waited_ms=deferred.waited_ms + countdown_ms,
            deferred=True,
            due_ms=round(time.time() * 1000) + countdown_ms,
        )
        await send_back(self.task, why, countdown_ms, history, retries=self.task.request.retries)

    async def _retry(self, error: TransientError) -> NoReturn:
        settings = self._settings
        calls = (*self.history.trail, *attempts.of_this_run())
        tries = self.task.request.retries + error.own
        repeats = sum(call.code == error.code for call in calls)
        # A failure of all jobs is an outage and costs no retry: the job waits until it ends.
        spent = error.own and tries >= settings.max_retries
        if spent or (error.most_repeats is not None and repeats > error.most_repeats):
            _fail(error, RetriesExhausted(f"gave up after {tries} tries: {error.reason}"))
        countdown_ms = self._backoff_ms(error, tries if error.own else max(1, len(calls)))
        left_ms = round((self.deadline_s - self.history.age_s) * 1000)
        if countdown_ms > left_ms:
            _fail(error, DeadlineExceeded(f"{self._no_time(tries)}: {error.reason}"))
        if not error.own:
            spread_ms = await self._outages.countdown_ms(
                awaited_service(self.task), countdown_ms, error.code, models=self._models
            )
            longest_ms = min(left_ms, longest_wait_ms(self.task, settings))
            countdown_ms = max(countdown_ms, min(spread_ms, longest_ms))
        history = self._with(error, waited_ms=error.waited_ms)
        await send_back(self.task, error, countdown_ms, history, retries=tries)

    def _backoff_ms(self, error: TransientError, failures: int) -> int:
        """Return the wait after the failures so far, in milliseconds; shorter in an outage."""
        settings = self._settings
        longest_s, stated_ms = settings.retry_backoff_max_s, error.backoff_ms or 0
        if not error.own:
            stated_ms = min(stated_ms, _OUTAGE_STATED_MS)
        if not error.own and not error.in_doubt:
            longest_s = min(longest_s, _OUTAGE_BACKOFF_S)
        backoff_ms = backoff(failures, base_s=settings.retry_backoff_s, longest_s=longest_s)
        return min(max(backoff_ms, stated_ms), longest_wait_ms(self.task, settings))

    def _with(
        self,
        over: Deferred | TransientError,
        *,
        waited_ms: int,
        deferred: bool = False,
        due_ms: int = 0,
    ) -> History:
        return self.history.after(
            attempts=over.attempts,
            waited_ms=waited_ms,
            deferred=deferred,
            trail=attempts.of_this_run(),
            reason=over.reason,
            in_doubt=over.in_doubt,
            due_ms=due_ms,
        )

    def _no_key(self) -> str:
        deferrals = self.history.deferrals
        return f"no key was free within {self.deadline_s:g} s ({deferrals} deferrals)"

    def _no_time(self, tries: int) -> str:
        left = f"no time is left for another try within {self.deadline_s:g} s"
        return f"{left} (tries so far: {tries})"


current_run: ContextVar[JobRun | None] = ContextVar("the run of the job", default=None)
"""The run that this code belongs to; set only in the user's own tasks, which draw keys."""


def backoff(
    tries: int, *, base_s: float, longest_s: float, jitter: Callable[[], float] = random.random
) -> int:
    """Return the wait after a number of failed tries, in milliseconds.

    The wait doubles with each try; jitter reduces it by up to half.
    """
    full_ms: float = min(base_s * 2.0 ** min(tries - 1, 30), longest_s) * 1000
    return round(full_ms * (0.5 + jitter() / 2))


def _fail(over: Rescheduled, why: JobError) -> NoReturn:
    """Fail the job; if it may have been carried out, the error says so."""
    if over.in_doubt:
        raise OutcomeUnknown(f"an earlier attempt may have been accepted, and then {why}") from None
    raise why from None
