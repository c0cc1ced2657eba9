"""Messages that a broker delivers again because their connection was lost, while their jobs run on.

Our transport for Redis keeps such a message with its worker. Other brokers have it back as soon as
the connection is gone, and may deliver it to the very worker that runs its job.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from celery.worker import state

from worker.foreign_json import member


def adopt(message: Any, settle: Callable[..., Any]) -> bool:
    """Have the running job of a message that was delivered again settle it.

    Args:
        message: The message.
        settle: Acknowledges or rejects, as `Consumer.call_soon_ack` does.

    Returns:
        Whether its job runs here; else it is to be run.
    """
    if not member(message.delivery_info, "redelivered"):
        return False
    job = member(message.headers, "id")
    for request in tuple(state.active_requests):
        if request.id == job and not request.acknowledged:
            request._on_ack = partial(settle, message.ack_log_error)  # noqa: SLF001 - no other way
            request._on_reject = partial(settle, message.reject_log_error)  # noqa: SLF001
            return True
    return False
