"""The task that posts notifications of how jobs ended; see `worker.notifications`."""

from typing import Any

from worker.arguments.base import check
from worker.arguments.notification import NotificationArguments
from worker.celery import app
from worker.errors import DeadlineExceeded, RequestRejected, TransientError
from worker.jobs.history import History
from worker.jobs.job_run import backoff
from worker.jobs.rescheduling import longest_wait_ms, send_back
from worker.notifications import Gone, NotDelivered
from worker.runtime import Runtime

_LONGEST_S = 86_400.0
_LONGEST_PAUSE_S = 3_600.0
_AT_ONCE = 32
"""The most notifications that a worker posts at a time: a hanging receiver must not block it."""


@app.task(bind=True, name="tasks.notify.post", ignore_result=True, concurrency_limit=_AT_ONCE)
async def post(self: Any, *args: Any, **kwargs: Any) -> None:
    """Post a notification until its receiver takes it, for a day at most.

    Args:
        self: The task.
        *args: None; arguments go by name.
        **kwargs: `url`, `message_id` and `event`.

    Raises:
        InvalidArguments: The settings do not allow the host.
        RequestRejected: The receiver refuses further notifications.
        DeadlineExceeded: The receiver did not take the notification within a day.
    """
    arguments = check(NotificationArguments, args, kwargs)
    runtime = Runtime.current()
    try:
        await runtime.notifications.post(*arguments.as_call())
    except Gone as gone:
        raise RequestRejected(str(gone)) from None
    except NotDelivered as failed:
        await _try_later(self, str(failed), runtime)


async def _try_later(task: Any, reason: str, runtime: Runtime) -> None:
    request, settings = task.request, runtime.settings
    tries, history = request.retries + 1, History.of(request.headers)
    pause_ms = backoff(tries, base_s=settings.retry_backoff_s, longest_s=_LONGEST_PAUSE_S)
    if history.age_s + pause_ms / 1000 > _LONGEST_S:
        raise DeadlineExceeded(f"not delivered within a day ({tries} tries): {reason}")
    pause_ms = min(pause_ms, longest_wait_ms(task, settings))
    history = history.after(attempts=1, waited_ms=0, reason=reason)
    await send_back(task, TransientError(reason), pause_ms, history, retries=tries)
