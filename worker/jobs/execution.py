"""Runs a job: serves it, or sends it back to its queue with the right countdown.

A job has three budgets, which never mix:

- rotation: each key once in a turn;
- deferrals: until the deadline of the job; they cost no retry;
- retries: as many as `max_retries` of the settings, with exponential backoff; a failure that hits
  every job (an outage) costs none.
"""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn, Protocol, TypeVar

from celery import Task
from celery.exceptions import SoftTimeLimitExceeded

from config.settings import Settings
from worker import attempts
from worker.cancellations import stamped
from worker.errors import (
    DeadlineExceeded,
    Deferred,
    JobError,
    OutcomeUnknown,
    Rescheduled,
    RetriesExhausted,
    TransientError,
)
from worker.jobs.history import History, came_again, doubt_ms
from worker.jobs.outages import NOBODY_COUNTS, Outages
from worker.jobs.ownership import Ownership
from worker.jobs.priority import is_bulk
from worker.jobs.rescheduling import longest_wait_ms, queue_of, send_back
from worker.keypool import LeaseRequest
from worker.rotation.served import Served
from worker.verdicts import SERVER_ERROR

OrderT = TypeVar("OrderT")
OrderT_contra = TypeVar("OrderT_contra", contravariant=True)

_OUTAGE_BACKOFF_S = 10.0
"""The longest backoff in an outage: the host of the provider rests for ten seconds at most.

An email in doubt waits longer each time.
"""


class Serving(Protocol[OrderT_contra]):
    """Serves jobs: the rotation of a service, or the email sender."""

    async def serve(
        self,
        lease_request: LeaseRequest,
        order: OrderT_contra,
        /,
        *,
        longest_s: float | None = None,
    ) -> Served:
        """Carry the order out, or raise why the turn is over.

        Args:
            lease_request: What each call needs of a key.
            order: What is to be carried out.
            longest_s: The longest wait for keys, in seconds.
        """
        ...


async def run_job(
    task: Task,
    rotation: Serving[OrderT],
    lease_request: LeaseRequest,
    order: OrderT,
    *,
    settings: Settings,
    deadline_s: float | None = None,
    ownership: Ownership | None = None,
    outages: Outages = NOBODY_COUNTS,
) -> tuple[Served, History]:
    """Serve a job now, or raise what makes Celery run it again later.

    Args:
        task: The bound task, for its request.
        rotation: What serves it: the rotation of the service, or the email sender.
        lease_request: What the job needs of a key.
        order: What is to be carried out: a function that makes the request for the key that was
            chosen, or an email.
        settings: Deadline, retries, waits.
        deadline_s: How long the job may take from its first turn on, in seconds; None or 0: as
            long as the settings allow.
        ownership: Knows whether the job is still this worker's; None: it is not checked.
        outages: Knows how many jobs wait for the end of an outage.

    Returns:
        The provider's answer, and the job's history with this turn in it.

    Raises:
        celery.exceptions.Retry: The job was sent back to its queue.
        JobError: The job fails for good.
    """
    history = History.of(task.request.headers)
    attempts.begin()
    if ownership is not None:
        ownership.begin(task.request)
    deadline_s = deadline_s or settings.deadline_s
    if history.age_s >= deadline_s:
        _end_too_late(
            task.request, history, deadline_s=deadline_s, in_doubt_matters=lease_request.emails > 0
        )
    bulk = is_bulk(task.request.delivery_info)
    lease_request = replace(
        lease_request,
        by=task.request.id or "",
        suspect=len({call.key for call in history.trail if call.code == SERVER_ERROR}) > 1,
        bulk=bulk,
        waited_ms=round(history.age_s * 1000),
    )
    longest_s = max(0.0, min(settings.task_soft_time_limit_s / 2, deadline_s - history.age_s))
    with stamped(task.request):
        try:
            served = await rotation.serve(lease_request, order, longest_s=longest_s)
        except Deferred as deferred:
            if ownership is not None:
                await ownership.end_if_lost()
            if history.age_s >= deadline_s:
                waited = f"no key was free within {deadline_s:g} s ({history.deferrals} deferrals)"
                _fail(deferred, DeadlineExceeded(f"{waited}: {deferred.reason}"))
            deferred.countdown_ms = await outages.countdown_ms(
                queue_of(task), deferred.countdown_ms, deferred.code
            )
            await _defer(task, deferred, history, settings, deadline_s=deadline_s)
        except TransientError as error:
            if ownership is not None:
                await ownership.end_if_lost()
            await _retry(task, error, history, settings, deadline_s=deadline_s)
        except SoftTimeLimitExceeded:
            late = TransientError("the turn took longer than KEYWHEEL_TASK_SOFT_TIME_LIMIT_S")
            late.in_doubt = lease_request.emails > 0  # the call may have been under way
            await _retry(task, late, history, settings, deadline_s=deadline_s)
    outages.passed(queue_of(task))
    return served, history.after(attempts=served.attempts, waited_ms=served.waited_ms)


def _fail(over: Rescheduled, why: JobError) -> NoReturn:
    """Fail the job; one that may have been carried out does not look as if it had not been."""
    if over.in_doubt:
        raise OutcomeUnknown(f"an earlier attempt may have been accepted, and then {why}") from None
    raise why from None


def _end_too_late(
    request: Any, history: History, *, deadline_s: float, in_doubt_matters: bool
) -> NoReturn:
    """Fail a job whose deadline passed before its turn: its caller waits no more."""
    over = Rescheduled()
    over.in_doubt = in_doubt_matters and bool(doubt_ms(request.headers) or came_again(request))
    if history.deferred:
        waited = f"no key was free within {deadline_s:g} s ({history.deferrals} deferrals)"
    else:
        waited = (
            f"no time is left for another try within {deadline_s:g} s "
            f"(tries so far: {request.retries})"
        )
    _fail(over, DeadlineExceeded(f"{waited}: {history.reason}" if history.reason else waited))


async def _defer(
    task: Task, deferred: Deferred, history: History, settings: Settings, *, deadline_s: float
) -> NoReturn:
    # Until a moment after the deadline: the job comes back once more then, and ends by it.
    longest_ms = min(
        longest_wait_ms(task, settings), round((deadline_s - history.age_s) * 1000) + 1000
    )
    countdown_ms = max(1, min(deferred.countdown_ms, longest_ms))
    waited_ms = deferred.waited_ms + countdown_ms
    after = history.after(
        attempts=deferred.attempts,
        waited_ms=waited_ms,
        deferred=True,
        trail=attempts.of_this_turn(),
        reason=deferred.reason,
        in_doubt=deferred.in_doubt,
    )
    await send_back(
        task,
        Deferred(countdown_ms, deferred.reason, deferred.code),
        countdown_ms,
        after,
        retries=task.request.retries,
    )


async def _retry(
    task: Task, error: TransientError, history: History, settings: Settings, *, deadline_s: float
) -> NoReturn:
    calls = (*history.trail, *attempts.of_this_turn())
    tries, failed = task.request.retries + error.own, max(1, len(calls))
    met = sum(call.code == error.code for call in calls)
    # A failure that hits every job is an outage and costs no retry: the job waits for its end.
    spent = error.own and tries >= settings.max_faults
    if spent or (error.most_repeats is not None and met > error.most_repeats):
        _fail(error, RetriesExhausted(f"gave up after {tries} tries: {error.reason}"))
    longest_s = settings.fault_backoff_max_s
    if not error.own and not error.in_doubt:
        longest_s = min(longest_s, _OUTAGE_BACKOFF_S)
    backoff_ms = backoff(
        tries if error.own else failed, base_s=settings.fault_backoff_s, longest_s=longest_s
    )
    countdown_ms = min(max(backoff_ms, error.backoff_ms or 0), longest_wait_ms(task, settings))
    if history.age_s + countdown_ms / 1000 > deadline_s:
        over = f"no time is left for another try within {deadline_s:g} s (tries so far: {tries})"
        _fail(error, DeadlineExceeded(f"{over}: {error.reason}"))
    after = history.after(
        attempts=error.attempts,
        waited_ms=error.waited_ms,
        trail=attempts.of_this_turn(),
        reason=error.reason,
        in_doubt=error.in_doubt,
    )
    await send_back(task, error, countdown_ms, after, retries=tries)


def backoff(
    tries: int, *, base_s: float, longest_s: float, jitter: Callable[[], float] = random.random
) -> int:
    """Return the wait after a number of failed tries, in milliseconds.

    It doubles with each try, with jitter over its upper half.
    """
    full_ms: float = min(base_s * 2.0 ** min(tries - 1, 30), longest_s) * 1000
    return round(full_ms * (0.5 + jitter() / 2))
