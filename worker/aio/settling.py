"""Settles a message even if the report of its job's end fails.

When Celery's request reports an end, it writes to the result store before it settles the message.
If the store rejects that, the message would stay unacknowledged until the worker ends, with its
lease renewed, and would take up room in the prefetch window.
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


def report(method: Callable[..., Any], *args: Any) -> None:
    """Call a method of a request that reports an end; if it raises, settle the message.

    On the consumer's thread. Exceptions of other functions are not caught.
    """
    try:
        method(*args)
    except Exception as exc:
        request = getattr(method, "__self__", None)
        if not isinstance(request, Request):
            raise
        settle(request, exc)


def settle(request: Any, exc: Exception) -> None:
    """Settle a message, unless it is settled, after the report of its job's end has failed.

    If the result store has rejected the report, the message goes back to its queue. Any other error
    would come again with the message, so it is acknowledged, like that of a failed job.
    """
    if isinstance(exc, _STORE_ERRORS):
        words = "cannot report the end of %s (%s: %s), so its message goes back to the queue"
        logger.error(words, request.humaninfo(), type(exc).__name__, exc)
    else:
        words = "cannot report the end of %s, so its message is only acknowledged"
        logger.error(words, request.humaninfo(), exc_info=exc)
    try:
        if isinstance(exc, _STORE_ERRORS):
            request.reject(requeue=True)
        else:
            request.acknowledge()
    except Exception as error:  # noqa: BLE001 - of any broker; on a lost connection it comes again
        words = "cannot settle the message of %s (%s); the broker delivers it again"
        logger.error(words, request.humaninfo(), error)  # noqa: TRY400
