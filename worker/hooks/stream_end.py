"""The last record of a job that ends where no task can tell.

It expired, was revoked, cut by a limit or never begun.
"""

import logging
from typing import Any

from worker.aio import lifespan
from worker.jobs.history import History
from worker.runtime import Runtime

_logger = logging.getLogger(__name__)

_STREAMING = "tasks.ai.complete"


def tell_ended(context: Any, *, error: str, reason: str) -> None:
    """Tell a job's stream that the job has failed.

    From any thread; waits for nothing and raises nothing.

    Args:
        context: What Celery knows of the job.
        error: The error's name.
        reason: One sentence for the caller.
    """
    kwargs = context.kwargs
    if (
        context.task != _STREAMING
        or not isinstance(kwargs, dict)
        or kwargs.get("stream") is not True
    ):
        return
    try:
        lifespan.submit(_tell(str(context.id), History.of(context.headers), error, reason))
    except RuntimeError:
        _logger.debug("the pool is gone; the stream of %s stays without an end", context.id)


async def _tell(task_id: str, history: History, error: str, reason: str) -> None:
    stream = Runtime.current().streams.open(task_id, attempts=history.attempts)
    stream.end_from_outside(begins=True, status="failed", error=error, reason=reason)
