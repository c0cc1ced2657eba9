"""Sends a job unless a job with the same id was sent already."""

from typing import Any

from celery import Signature, states
from celery.backends.redis import RedisBackend
from celery.exceptions import ImproperlyConfigured
from celery.result import AsyncResult

from worker.aio import bridge

_DAY_S = 86_400


def apply_once(
    signature: Signature, *, task_id: str, within_s: int | None = None, **options: Any
) -> AsyncResult:
    """Send a job unless a job with this id was sent within the last `within_s` seconds.

    A job that has failed is sent again. In a child asyncio task this call blocks the loop, as every
    way of sending does.

    Args:
        signature: The job to send, for example `fetch.s(1)`.
        task_id: The job's id, the same in all calls that mean the same job.
        within_s: How long the id is remembered, in seconds. Default: as long as results are kept,
            or a day if results are kept for ever.
        options: The options of `apply_async`.

    Returns:
        The result of the job that was sent first.

    Raises:
        ImproperlyConfigured: The result backend is not Redis, which has to remember the ids.
        TypeError: The signature is a group, or a chain that ends with a group, and no result has a
            group's id.
    """
    last = signature
    while last.task == "celery.chain":
        last = last.tasks[-1]
    if last.task == "celery.group":
        raise TypeError(
            "apply_once cannot find a group by its id again: make it a chord, whose body has the id"
        )
    result: AsyncResult = bridge.call(_apply, signature, task_id, within_s, options)
    return result


def _apply(
    signature: Signature, task_id: str, within_s: int | None, options: dict[str, Any]
) -> AsyncResult:
    backend = signature.app.backend
    if not isinstance(backend, RedisBackend):
        raise ImproperlyConfigured("apply_once needs a result backend in Redis")
    stored_at = backend.get_key_for_task(task_id)
    key, expires_s = stored_at + b".once", within_s or backend.expires or _DAY_S
    if not backend.client.set(key, b"1", nx=True, ex=expires_s):
        result = signature.app.AsyncResult(task_id)
        # If several callers find a failure, only the caller that deletes it sends the job again.
        if result.state != states.FAILURE or not backend.client.delete(stored_at):
            return result
        backend.client.set(key, b"1", ex=expires_s)
    try:
        return signature.apply_async(task_id=task_id, **options)
    except BaseException:
        backend.client.delete(key)
        raise
