"""Reads results that other programs may have written to the result store."""

from typing import Any, Final

from celery import Celery, states
from celery.exceptions import BackendError
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

STORE_ERRORS: Final = (RedisError, BackendError, OperationalError, OSError)
"""The errors that Celery raises if the result store cannot be reached, or refuses a command."""

_UNREADABLE: Final = {"unreadable": True}


def meta_of(app: Celery, job: str) -> dict[str, Any]:
    """Return the stored result of a job, with its `status` and `result` at least.

    A result that cannot be read is returned as `PENDING`, with `unreadable` set. Another program
    that shares the store may use its own serializer or exceptions. Blocks the thread.

    Args:
        app: The Celery app, for its result store.
        job: The job's id.

    Raises:
        Exception: One of `STORE_ERRORS`.
    """
    nothing = {"status": states.PENDING, "result": None}
    try:
        meta = app.backend.get_task_meta(job, cache=False)
        return nothing | meta if isinstance(meta["status"], str) else nothing | _UNREADABLE
    except STORE_ERRORS:
        raise
    except Exception:  # noqa: BLE001 - Celery makes whatever exception a foreign result names
        return nothing | _UNREADABLE
