"""Closes the stream of a job that ends outside of its task.

Such a job has expired, was revoked, exceeded the hard time limit or never began.
"""

import logging
from typing import Any

from worker.aio import lifespan
from worker.jobs.history import History
from worker.runtime import Runtime

_logger = logging.getLogger(__name__)


def close_stream(context: Any, *, error: str, reason: str) -> None:
    """Write to the stream of a job, if it asked for one, that the job has failed.

    Only tasks with `ServiceTask.streams` have such jobs.

    May be called from any thread. It does not wait, and raises no error.

    Args:
        context: Celery's context of the job.
        error: The error's name.
        reason: One sentence for the caller.
    """
    kwargs = context.kwargs
    if not isinstance(kwargs, dict) or kwargs.get("stream") is not True:
        return
    try:
        lifespan.submit(_close(str(context.id), History.of(context.headers), error, reason))
    except RuntimeError:
        _logger.debug("cannot close the stream of %s: the pool is gone", context.id)


async def _close(task_id: str, history: History, error: str, reason: str) -> None:
    stream = Runtime.current().streams.open(task_id, attempts=history.attempts)
    stream.close_from_outside(creates=True, status="failed", error=error, reason=reason)
