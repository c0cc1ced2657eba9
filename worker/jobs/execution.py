"""A job's turn at a service: serve it, or send it back to the queue with the right countdown.

Three budgets that never mix: rotation (each key once a turn), deferrals (until the job's deadline,
cost no retry) and faults (Celery's retries, with exponential backoff; what fails for everybody
costs none).
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn, Protocol, TypeVar

from celery import Task
from celery.exceptions import Reject, Retry, SoftTimeLimitExceeded

from config.celery import DEFERRED, DELAYED_QUEUES, QUEUE_OF, delays_in_broker
from config.settings import Settings
from worker import attempts
from worker.aio.pipelined_publishing import publish
from worker.aio.redis_retry import warn, words_of
from worker.aio.transport.qos import instant_of
from worker.cancellations import end_if_cancelled, stamped
from worker.errors import (
    DeadlineExceeded,
    Deferred,
    JobError,
    OutcomeUnknown,
    Rescheduled,
    RetriesExhausted,
    TransientError,
)
from worker.jobs.history import ALONE, DEATHS, History, came_again, doubt_ms
from worker.jobs.outages import NOBODY_COUNTS, Outages
from worker.jobs.ownership import Ownership
from worker.jobs.priority import is_bulk
from worker.keypool import LeaseRequest
from worker.rotation.served import Served
from worker.verdicts import SERVER_ERROR

OrderT = TypeVar("OrderT", contravariant=True)  # noqa: PLC0105 - the protocol is generic in what it accepts

_BROKER_PATIENCE_S = 60.0
_BROKER_PAUSE_S = 1.0
_OUTAGE_BACKOFF_S = 10.0
"""How long a job waits at most that found an outage, as its host rests.

An email in doubt waits ever longer.
"""
_LONGEST_DELAY_MS = 366 * 86_400_000
"""Beyond any deadline; larger numbers would be no instant of a calendar."""


class Serving(Protocol[OrderT]):
    """Who can serve a job's turn."""

    async def serve(
        self, lease_request: LeaseRequest, order: OrderT, /, *, longest_s: float | None = None
    ) -> Served:
        """Carry it out, or raise why its turn is over.

        Waits for keys for at most so many seconds.
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
        rotation: Who serves it: the service's rotation, or the email sender.
        lease_request: What the job needs of a key.
        order: What is to be served: what makes the request for the key that was chosen, or a
            letter.
        settings: Deadline, fault budget, waits.
        deadline_s: How long the job may take from its first turn on, in seconds, if it brought a
            deadline of its own.
        ownership: Knows whether the job is still this worker's; None: nobody asks.
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
                _end(deferred, DeadlineExceeded(f"{waited}: {deferred.reason}"))
            deferred.countdown_ms = await outages.countdown_ms(
                _queue_of(task), deferred.countdown_ms, deferred.code
            )
            await _defer(task, deferred, history, settings, deadline_s=deadline_s)
        except TransientError as fault:
            if ownership is not None:
                await ownership.end_if_lost()
            await _try_again(task, fault, history, settings, deadline_s=deadline_s)
        except SoftTimeLimitExceeded:
            late = TransientError("the turn took longer than KEYWHEEL_TASK_SOFT_TIME_LIMIT_S")
            late.in_doubt = lease_request.emails > 0  # the call may have been under way
            await _try_again(task, late, history, settings, deadline_s=deadline_s)
    outages.passed(_queue_of(task))
    return served, history.after(attempts=served.attempts, waited_ms=served.waited_ms)


def _end(over: Rescheduled, why: JobError) -> NoReturn:
    """Fail the job. An email that may have been accepted must not look as if it had not been."""
    if over.in_doubt:
        raise OutcomeUnknown(f"an earlier attempt may have been accepted, and then {why}") from None
    raise why from None


def _end_too_late(
    request: Any, history: History, *, deadline_s: float, in_doubt_matters: bool
) -> NoReturn:
    """Fail a job whose deadline is over before its turn.

    Even with a key that is free, nobody waits for it any more.
    """
    over = Rescheduled()
    over.in_doubt = in_doubt_matters and bool(doubt_ms(request.headers) or came_again(request))
    if history.deferred:
        waited = f"no key was free within {deadline_s:g} s ({history.deferrals} deferrals)"
    else:
        waited = f"no time is left for another try within {deadline_s:g} s (tries so far: {request.retries})"
    _end(over, DeadlineExceeded(f"{waited}: {history.reason}" if history.reason else waited))


async def _defer(
    task: Task, deferred: Deferred, history: History, settings: Settings, *, deadline_s: float
) -> NoReturn:
    # A moment beyond the deadline: then the job comes back once more and ends by it.
    longest_ms = min(
        _longest_wait_ms(task, settings), round((deadline_s - history.age_s) * 1000) + 1000
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
    await _send_back(
        task,
        Deferred(countdown_ms, deferred.reason, deferred.code),
        countdown_ms,
        after,
        retries=task.request.retries,
    )


async def _try_again(
    task: Task, fault: TransientError, history: History, settings: Settings, *, deadline_s: float
) -> NoReturn:
    calls = (*history.trail, *attempts.of_this_turn())
    tries, failed = task.request.retries + fault.own, max(1, len(calls))
    met = sum(call.code == fault.code for call in calls)
    # What fails for everybody is an outage, and costs no try: the job waits for its end, as for a
    # key.
    spent = fault.own and tries >= settings.max_faults
    if spent or (fault.most_repeats is not None and met > fault.most_repeats):
        _end(fault, RetriesExhausted(f"gave up after {tries} tries: {fault.reason}"))
    longest_s = settings.fault_backoff_max_s
    if not fault.own and not fault.in_doubt:
        longest_s = min(longest_s, _OUTAGE_BACKOFF_S)
    backoff_ms = backoff(
        tries if fault.own else failed, base_s=settings.fault_backoff_s, longest_s=longest_s
    )
    countdown_ms = min(max(backoff_ms, fault.backoff_ms or 0), _longest_wait_ms(task, settings))
    if history.age_s + countdown_ms / 1000 > deadline_s:
        over = f"no time is left for another try within {deadline_s:g} s (tries so far: {tries})"
        _end(fault, DeadlineExceeded(f"{over}: {fault.reason}"))
    after = history.after(
        attempts=fault.attempts,
        waited_ms=fault.waited_ms,
        trail=attempts.of_this_turn(),
        reason=fault.reason,
        in_doubt=fault.in_doubt,
    )
    await _send_back(task, fault, countdown_ms, after, retries=tries)


def _longest_wait_ms(task: Task, settings: Settings) -> int:
    """How long a message may wait for its instant, in milliseconds.

    A longer wait takes several hops.

    A worker may hold it for half of the visibility timeout: kombu's own transport would deliver it
    a second time later.
    """
    if delays_in_broker(settings) and _way_back(task.request.delivery_info or {}) in DELAYED_QUEUES:
        return min(_LONGEST_DELAY_MS, _until_it_expires_ms(task.request))
    return settings.visibility_timeout_s * 500


def _until_it_expires_ms(request: Any) -> int:
    """For how long its producer gave a job time, and a moment beyond.

    Then it comes back and its caller is told.
    """
    expires = instant_of(request.expires)
    if expires is None:
        return _LONGEST_DELAY_MS
    return max(0, round((expires.timestamp() - time.time()) * 1000)) + 1000


def backoff(
    tries: int, *, base_s: float, longest_s: float, jitter: Callable[[], float] = random.random
) -> int:
    """How long to wait after a number of failed tries.

    Doubling, with jitter over the upper half, in milliseconds.
    """
    full_ms: float = min(base_s * 2.0 ** min(tries - 1, 30), longest_s) * 1000
    return round(full_ms * (0.5 + jitter() / 2))


async def _send_back(
    task: Task, why: Exception, countdown_ms: int, history: History, *, retries: int
) -> NoReturn:
    request: Any = task.request
    countdown_s = countdown_ms / 1000
    headers = {**(request.headers or {}), **history.headers()}
    for name in (
        DEATHS,
        ALONE,
    ):  # it lived through this turn; when the first of those workers died stays worth knowing
        headers.pop(name, None)
    queue = _way_back(request.delivery_info or {})
    signature = task.signature_from_request(
        request, countdown=countdown_s, retries=retries, headers=headers, queue=queue
    )
    if request.called_directly or request.is_eager:
        raise why
    await end_if_cancelled(request.id, patiently=False)
    await _publish(signature, task)
    request.waits = waits_of(why, countdown_s)
    raise Retry(
        exc=why, when=countdown_s, sig=signature
    ) from None  # Celery formats and stores all that it came from


def waits_of(why: Exception, countdown_s: float) -> dict[str, Any]:
    """Say for programs why a job waits and until when, as it stands beside its result and in its stream.

    Returns:
        `kind`: `key` where no key can serve, `failure` where a call failed; `code`: the reason, see
        docs/enqueueing.md; `next_try`: the instant, in ISO 8601.
    """
    next_try = datetime.now(UTC) + timedelta(seconds=countdown_s)
    kind = "key" if isinstance(why, Deferred) else "failure"
    code = why.code if isinstance(why, Deferred | TransientError) else ""
    return {
        "kind": kind,
        "code": code or kind,
        "next_try": next_try.isoformat(timespec="milliseconds"),
    }


async def _publish(signature: Any, task: Task) -> None:
    """Put a message into the broker. A soft time limit is for the work, which is over.

    Cut off here the job would end, or a second message would follow one that is on its way.
    """
    publishing = asyncio.ensure_future(_publish_patiently(signature, task))
    try:
        await asyncio.shield(publishing)
    except SoftTimeLimitExceeded:
        await publishing
    except asyncio.CancelledError:
        publishing.cancel()
        raise


async def _publish_patiently(signature: Any, task: Task) -> None:
    """Put a message into the broker, however often it takes within a minute.

    The new message is there before the old one is acknowledged: a crash in between leaves two,
    never none.
    """
    deadline = time.monotonic() + _BROKER_PATIENCE_S
    while True:
        try:
            await publish(signature, task.app)
        except Exception as exc:
            # Mostly OperationalError, but kombu also stumbles over a connection that closes under
            # it (AttributeError). The message came as JSON and goes back as JSON, so what it holds
            # is not at fault.
            if time.monotonic() > deadline:
                raise Reject(exc, requeue=True) from exc  # the old message stays the job's only one
            warn("jobs wait for the broker, to go back to their queue: %s", words_of(exc))
            await asyncio.sleep(_BROKER_PAUSE_S)
        else:
            return


def _queue_of(task: Task) -> str:
    """The queue of the job's service; empty where it came by another."""
    back = _way_back(task.request.delivery_info or {}) or ""
    return back.removesuffix(DEFERRED) if back in DELAYED_QUEUES else ""


def _way_back(delivery_info: dict[str, Any]) -> str | None:
    """The queue of deferred jobs that belongs to the one that a job came from.

    None leaves it to Celery.
    """
    queue = str(delivery_info.get("routing_key"))
    if queue.endswith(DEFERRED):
        return queue
    return queue + DEFERRED if queue in QUEUE_OF.values() else None
