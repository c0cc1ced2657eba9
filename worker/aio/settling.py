"""Sees that a report which fails does not keep a message for ever.

Where Celery's request tells of an end it writes to the result store before it settles the message.
A store that refuses raises there: the message would stay taken, with its lease renewed and its
place in the prefetch window, until the worker ends.
"""

import logging
from collections.abc import Callable
from typing import Any

import redis
from celery.exceptions import BackendError
from celery.worker.request import Request
from kombu.exceptions import OperationalError

logger = logging.getLogger(__name__)

_STORE_ERRORS = (redis.RedisError, BackendError, OperationalError, OSError)


def report(told: Callable[..., Any], *args: Any) -> None:
    """Call a method of a request that tells of an end.

    Where it raises, settle the message nevertheless.

    On the consumer's thread. What is no request's method may raise as it likes.
    """
    try:
        told(*args)
    except Exception as exc:
        request = getattr(told, "__self__", None)
        if not isinstance(request, Request):
            raise
        settle(request, exc)


def settle(request: Any, exc: Exception) -> None:
    """Settle a message, unless it is settled, although the end of its job could not be told.

    Where the result store did not take it the message goes back to its queue. Any other error would
    come again with the message: it is acknowledged, as that of a job that has failed.
    """
    if isinstance(exc, _STORE_ERRORS):
        words = "the end of %s could not be told (%s: %s), so its message goes back to the queue"
        logger.error(words, request.humaninfo(), type(exc).__name__, exc)
    else:
        logger.error("the end of %s could not be told", request.humaninfo(), exc_info=exc)
    try:
        if isinstance(exc, _STORE_ERRORS):
            request.reject(requeue=True)
        else:
            request.acknowledge()
    except Exception as refused:  # noqa: BLE001 - of any broker; a lost connection gives the message back by itself
        logger.error("the message of %s could not be settled (%s)", request.humaninfo(), refused)  # noqa: TRY400
