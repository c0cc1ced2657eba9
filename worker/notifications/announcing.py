"""Publishes the notification of how a job ended, as a job of its own."""

import hashlib
import logging
from datetime import UTC, datetime
from typing import Any, Final

from celery import Celery, states
from celery.exceptions import Reject

from config.celery import NOTIFY, queue_of
from config.current import get_settings
from config.notify_hosts import host_of, notify_hosts
from worker.deadletters.capture import delivery_of, reason_of
from worker.errors import JobError
from worker.foreign_json import member
from worker.jobs.rescheduling import publish_patiently

_logger = logging.getLogger(__name__)

TASK: Final = "tasks.notify.post"
_HIDDEN: Final = "<hidden>"
_TYPES: Final = {
    states.SUCCESS: "job.succeeded",
    states.FAILURE: "job.failed",
    states.REVOKED: "job.revoked",
}
_ID_CHARS: Final = 32
_ANNOUNCED: Final = "keywheel_announced"


def announces(task: str, kwargs: Any) -> str:
    """Return the URL to notify of a job's end; empty if there is none, or if it may not be used.

    Args:
        task: The task's name.
        kwargs: The job's arguments. They may not have been validated.
    """
    url = member(kwargs, "notify")
    if not isinstance(url, str) or queue_of(task) in {"", NOTIFY}:
        return ""
    try:
        host_of(url, notify_hosts(get_settings().notify_hosts))
    except ValueError:
        return ""
    return url


def is_announced(context: Any) -> bool:
    """Return whether this process has announced the end of this delivery of a job."""
    return isinstance(context.delivery_info, dict) and _ANNOUNCED in context.delivery_info


def end_of_failure(exc: BaseException) -> dict[str, Any]:
    """Return a job's error for its notification. The message of a foreign error is not quoted."""
    message = str(exc) if isinstance(exc, JobError) else reason_of(exc)
    return {"error": {"type": type(exc).__name__, "message": message}}


async def announce(app: Celery, context: Any, task: str, state: str, end: dict[str, Any]) -> None:
    """Publish the notification of how a job ended, if the job names a URL for it.

    It may be called again for the same end; the notification then has the same id. It raises
    nothing: if the broker takes no notification for a minute, it logs that the notification is
    lost.

    Args:
        app: The app.
        context: Celery's context of the job that ended.
        task: The job's task.
        state: `SUCCESS`, `FAILURE` or `REVOKED`.
        end: The field `result` or `error`, as the receiver gets it.
    """
    url = announces(task, context.kwargs)
    if not url or getattr(context, "is_eager", False):
        return
    job = str(context.id)
    end_id = f"{job}:{delivery_of(context)}:{state}"
    message_id = "msg_" + hashlib.sha256(end_id.encode()).hexdigest()[:_ID_CHARS]
    event = {
        "type": _TYPES[state],
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "data": {"id": job, "task": task, "state": state} | end,
    }
    signature = app.tasks[TASK].signature(
        kwargs={"url": url, "message_id": message_id, "event": event},
        options={
            "queue": NOTIFY,
            "task_id": message_id,
            "argsrepr": _HIDDEN,
            "kwargsrepr": _HIDDEN,
            "add_to_parent": False,
        },
    )
    try:
        await publish_patiently(signature, app)
        # The contexts of one delivery, the consumer's and the task's, share this object.
        context.delivery_info[_ANNOUNCED] = True
    except Reject:
        _logger.error("the notification of %s is lost: the broker does not take it", job)  # noqa: TRY400 - without its arguments
