"""Enqueues jobs and reads their states, with two small Celery apps."""

from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.exceptions import BackendError
from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

# This app has no result backend, else it would subscribe to the result of each job before sending.
_sender = Celery(broker=settings.REDIS_URL, set_as_current=False)
_sender.conf.update(
    task_routes={"tasks.ai.*": {"queue": "ai"}, "tasks.email.*": {"queue": "email"}},
    # A visitor is waiting, so fail soon.
    broker_transport_options={
        "socket_connect_timeout": 2,
        "socket_timeout": 5,
        "max_retries": 1,
        "interval_start": 0.2,
    },
    task_publish_retry=False,
)
_reader = Celery(backend=settings.REDIS_URL, set_as_current=False)
_reader.conf.update(redis_socket_connect_timeout=2, redis_socket_timeout=5)


class Unreachable:
    """Middleware that answers 503 if Redis cannot be reached.

    The errors are not shown, because they may quote the URL.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Pass the request on."""
        return self._get_response(request)

    def process_exception(self, _: HttpRequest, error: Exception) -> HttpResponse | None:
        """Answer 503 for a view that failed because of Redis."""
        if isinstance(error, OperationalError | BackendError | RedisError):
            detail = {"detail": "the queue cannot be reached, try again soon"}
            return JsonResponse(detail, status=503, headers={"Retry-After": "5"})
        return None


def enqueue(task: str, **arguments: Any) -> str:
    """Enqueue a job, and return its id.

    Raises:
        OperationalError: Redis cannot be reached.
    """
    return str(_sender.send_task(task, kwargs=arguments).id)


def state_of(job_id: str) -> dict[str, Any]:
    """Return a job's state: `waiting`, `retrying`, `done` with a result, `failed` with a reason.

    Raises:
        BackendError: Redis cannot be reached.
    """
    found = _reader.backend.get_task_meta(
        job_id, cache=False
    )  # one read for state and result: the job may end between two reads
    state, result = found["status"], found["result"]
    if state == "SUCCESS":
        return {"state": "done", "result": result}
    if state == "RETRY":  # no key is free, or the provider failed; Keywheel tries again later
        return {"state": "retrying", "reason": str(result)}
    if state in {"FAILURE", "REVOKED"}:
        return {"state": "failed", "error": type(result).__name__, "reason": str(result)}
    return {"state": "waiting"}
