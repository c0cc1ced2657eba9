"""Handles messages that a broker delivers again after a lost connection while their jobs still run.

Our transport for Redis leaves such a message with its worker. Other brokers take it back as soon as
the connection is lost, and may deliver it again to the worker that runs its job.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from celery.worker import state

from worker.foreign_json import member


def adopt(message: Any, settle: Callable[..., Any]) -> bool:
    """Let the running job of a message that was delivered again settle the message.

    Args:
        message: The message.
        settle: Acknowledges or rejects, as `Consumer.call_soon_ack` does.

    Returns:
        Whether the job runs here. If not, the caller must run it.
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
