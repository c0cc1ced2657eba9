"""Sends a job back to its queue, to run again after a countdown."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

from celery import Celery, Task
from celery.exceptions import Reject, Retry, SoftTimeLimitExceeded

from config.celery import DEFERRED, DELAYED_QUEUES, delays_in_broker
from config.settings import Settings
from worker import telemetry
from worker.aio.pipelined_publishing import publish
from worker.aio.redis_retry import safe_message, warn
from worker.aio.time_limits import HeldTimeLimits
from worker.aio.transport.eta import instant_of
from worker.aio.transport.headers import DEATHS
from worker.cancellations import end_if_cancelled
from worker.errors import Deferred, TransientError
from worker.jobs.history import ALONE, History

_BROKER_RETRIES_S = 60.0
_BROKER_PAUSE_S = 1.0
_HIDDEN_REPRS = {"argsrepr": "<hidden>", "kwargsrepr": "<hidden>"}
"""These replace the parts of the arguments that Celery writes into the headers for tools."""
_LONGEST_DELAY_MS = 366 * 86_400_000
"""Longer than any deadline. A much larger number would give an invalid date."""


async def send_back(
    task: Task, why: Exception, countdown_ms: int, history: History, *, retries: int
) -> NoReturn:
    """Publish the message of the running job again, with a countdown, and end this run.

    Args:
        task: The bound task.
        why: Why the job runs again; Celery shows it.
        countdown_ms: When the job runs again, in milliseconds from now.
        history: The job's history.
        retries: How many retries the job has spent.

    Raises:
        celery.exceptions.Retry: The message is in the broker.
        celery.exceptions.Reject: The broker did not take the message; the old message stays.
    """
    request: Any = task.request
    countdown_s = countdown_ms / 1000
    headers = {**(request.headers or {}), **history.headers(), **telemetry.headers()}
    for name in (DEATHS, ALONE):  # no worker has died in this run
        headers.pop(name, None)
    queue = _deferred_queue_of(request.delivery_info or {})
    hidden = {} if getattr(task, "show_content", False) else _HIDDEN_REPRS
    signature = task.signature_from_request(
        request, countdown=countdown_s, retries=retries, headers=headers, queue=queue, **hidden
    )
    if request.called_directly or request.is_eager:
        raise why
    await end_if_cancelled(request.id, patiently=False)
    await publish_patiently(signature, task.app)
    request.waits = waits_of(why, countdown_s)
    retry: Any = Retry(exc=why, when=countdown_s, sig=signature)
    retry.waits = request.waits
    raise retry from None  # Celery would format and store the cause


def waits_of(why: Exception, countdown_s: float) -> dict[str, Any]:
    """Describe why and until when a job waits, for its stored state, its stream and its event.

    Returns:
        `kind`: `key` if no key can serve, `failure` if a call failed. `code`: the reason, see
        docs/results.md. `next_try` and `expected_end`: instants in ISO 8601; `expected_end` is None
        if it is not known.
    """
    kind = "key" if isinstance(why, Deferred) else "failure"
    code = why.code if isinstance(why, Deferred | TransientError) else ""
    ends_in_s = _ends_in_s(why, countdown_s)
    return {
        "kind": kind,
        "code": code or kind,
        "next_try": _instant(countdown_s),
        "expected_end": None if ends_in_s is None else _instant(ends_in_s),
    }


def _ends_in_s(why: Exception, countdown_s: float) -> float | None:
    """Return when a wait is expected to end, in seconds from now; never before the next try."""
    if not isinstance(why, Deferred):
        return countdown_s if getattr(why, "own", True) else None
    return None if why.ends_in_ms is None else max(countdown_s, why.ends_in_ms / 1000)


def _instant(in_s: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=in_s)).isoformat(timespec="milliseconds")


async def publish_patiently(signature: Any, app: Celery) -> None:
    """Publish a message while the time limits, which are meant for the work, are suspended.

    If a time limit ended the job here, it would be lost, or run twice, or fail only because the
    broker is away.

    Raises:
        celery.exceptions.Reject: The broker did not take the message for a minute.
    """
    publishing = asyncio.ensure_future(_publish_with_retries(signature, app))
    with HeldTimeLimits():
        try:
            await asyncio.shield(publishing)
        except SoftTimeLimitExceeded:  # raised before the time limits were suspended
            await publishing
        except asyncio.CancelledError:
            publishing.cancel()
            raise


async def _publish_with_retries(signature: Any, app: Celery) -> None:
    """Publish a message, with retries for a minute.

    The new message is in the broker before the old one is acknowledged: a crash in between leaves
    two messages, never none.
    """
    deadline = time.monotonic() + _BROKER_RETRIES_S
    while True:
        try:
            await publish(signature, app)
        except Exception as exc:
            # Mostly OperationalError, but kombu also raises AttributeError if a connection is
            # closed meanwhile. The content is not at fault: it was read from JSON and is written
            # as JSON.
            if time.monotonic() > deadline:
                raise Reject(exc, requeue=True) from exc  # the job keeps its old message
            warn(
                "jobs cannot go back to their queue until the broker takes them: %s",
                safe_message(exc),
            )
            await asyncio.sleep(_BROKER_PAUSE_S)
        else:
            return


def awaited_service(task: Task) -> str:
    """Name the service that a job waits for; empty if its queue has no deferred queue."""
    back = _deferred_queue_of(task.request.delivery_info or {})
    return str(getattr(task, "service", "")) if back in DELAYED_QUEUES else ""


def _deferred_queue_of(delivery_info: dict[str, Any]) -> str | None:
    """Return the deferred queue of the queue that a job came from; None lets Celery choose."""
    queue = str(delivery_info.get("routing_key"))
    if queue.endswith(DEFERRED):
        return queue
    return queue + DEFERRED if queue + DEFERRED in DELAYED_QUEUES else None


def longest_wait_ms(task: Task, settings: Settings) -> int:
    """Return how long a message may wait for its instant, in milliseconds.

    A longer wait takes several messages, one after the other. If a worker holds the message, the
    wait is at most half of the visibility timeout, because kombu's own transport delivers the
    message again after the whole timeout.
    """
    if (
        delays_in_broker(settings)
        and _deferred_queue_of(task.request.delivery_info or {}) in DELAYED_QUEUES
    ):
        return min(_LONGEST_DELAY_MS, _until_it_expires_ms(task.request))
    return settings.visibility_timeout_s * 500


def _until_it_expires_ms(request: Any) -> int:
    """Return the time until just after a job expires, in milliseconds.

    The job then comes back, and its caller learns that it has expired.
    """
    expires = instant_of(request.expires)
    if expires is None:
        return _LONGEST_DELAY_MS
    return max(0, round((expires.timestamp() - time.time()) * 1000)) + 1000
