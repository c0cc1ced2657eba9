"""Sees that a report which fails does not keep a message for ever.

Where Celery's request tells of an end it writes to the result store before it settles the message. A store that refuses
raises there: the message would stay taken, with its lease renewed and its place in the prefetch window, until the
worker ends.
"""

import logging
from collections.abc import Callable
from typing import Any

from celery.worker.request import Request

logger = logging.getLogger(__name__)


def report(told: Callable[..., Any], *args: Any) -> None:
    """Call a method of a request; where it raises, say so in a line and give the message back to its queue.

    On the consumer's thread. What is no request's method may raise as it likes.
    """
    try:
        told(*args)
    except Exception as exc:
        request = getattr(told, "__self__", None)
        if not isinstance(request, Request):
            raise
        give_back(request, exc)


def give_back(request: Any, exc: Exception) -> None:
    """Reject a request's message with requeue, unless it is settled, because its end could not be told."""
    logger.error(
        "the end of %s could not be told (%s: %s)%s",
        request.humaninfo(),
        type(exc).__name__,
        exc,
        "" if request.acknowledged else "; its message goes back to the queue",
    )
    try:
        request.reject(requeue=True)
    except Exception as refused:  # noqa: BLE001 - of any broker; a lost connection gives the message back by itself
        logger.error("the message of %s could not be given back (%s)", request.humaninfo(), refused)  # noqa: TRY400
