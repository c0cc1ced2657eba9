"""Reads from the result store what others may have written there."""

from typing import Any, Final

from celery import Celery, states
from celery.exceptions import BackendError
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

STORE_ERRORS: Final = (RedisError, BackendError, OperationalError, OSError)
"""What Celery raises where the result store cannot be reached, or refuses a command."""

_UNREADABLE: Final = {"unreadable": True}


def meta_of(app: Celery, job: str) -> dict[str, Any]:
    """What the result store holds of a job, with its `status` and `result` at least.

    What nobody can read is as if there were nothing, but for `unreadable`: another program may
    share the store, with a serializer or with exceptions of its own. Blocks the thread.

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
    except Exception:  # noqa: BLE001 - Celery calls what a stranger's result names
        return nothing | _UNREADABLE
