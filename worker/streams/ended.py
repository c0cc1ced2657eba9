"""The last record of a job that is ended from outside, where no task can tell: expired, revoked, cut by a limit."""

import logging
from typing import Any

from worker.aio import lifespan
from worker.history import History
from worker.runtime import Runtime

_logger = logging.getLogger(__name__)

_STREAMING = "tasks.ai.complete"


def tell_ended(request: Any, *, error: str, reason: str) -> None:
    """Tell a job's stream that the job has failed. From the consumer's thread; waits for nothing and raises nothing.

    Args:
        request: The consumer's request.
        error: The error's name.
        reason: One sentence for the caller.
    """
    kwargs = request.kwargs
    if request.name != _STREAMING or not isinstance(kwargs, dict) or kwargs.get("stream") is not True:
        return
    try:
        lifespan.submit(_tell(str(request.id), History.of(request._context.headers), error, reason))  # noqa: SLF001
    except RuntimeError:
        _logger.debug("the pool is gone; the stream of %s stays without an end", request.id)


async def _tell(task_id: str, history: History, error: str, reason: str) -> None:
    stream = Runtime.current().streams.open(task_id, attempts=history.attempts)
    stream.close("end", status="failed", error=error, reason=reason)
