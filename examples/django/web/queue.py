"""The way to Keywheel: two small Celery apps, one that sends and one that reads."""

from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.exceptions import BackendError
from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

# Without a result backend: otherwise each job that is sent subscribes to its result first.
_sender = Celery(broker=settings.REDIS_URL, set_as_current=False)
_sender.conf.update(
    task_routes={"tasks.ai.*": {"queue": "ai"}, "tasks.email.*": {"queue": "email"}},
    # A visitor is waiting: say soon if it does not work.
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
    """Middleware that answers 503 where Redis cannot be reached.

    Its errors may quote the URL, so they stay here.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Pass the request on."""
        return self._get_response(request)

    def process_exception(self, _: HttpRequest, error: Exception) -> HttpResponse | None:
        """Answer for a view that failed."""
        if isinstance(error, OperationalError | BackendError | RedisError):
            detail = {"detail": "the queue cannot be reached, try again soon"}
            return JsonResponse(detail, status=503, headers={"Retry-After": "5"})
        return None


def enqueue(task: str, **arguments: Any) -> str:
    """Enqueue a job; returns its id.

    Raises:
        OperationalError: Redis cannot be reached.
    """
    return str(_sender.send_task(task, kwargs=arguments).id)


def state_of(job_id: str) -> dict[str, Any]:
    """How a job is: `waiting`, `retrying`, `done` with its result, or `failed` with its reason.

    Raises:
        BackendError: Redis cannot be reached.
    """
    found = _reader.backend.get_task_meta(
        job_id, cache=False
    )  # both at once: the job may end in between
    state, result = found["status"], found["result"]
    if state == "SUCCESS":
        return {"state": "done", "result": result}
    if state == "RETRY":  # no key is free, or the provider failed; Keywheel comes back to it
        return {"state": "retrying", "reason": str(result)}
    if state in {"FAILURE", "REVOKED"}:
        return {"state": "failed", "error": type(result).__name__, "reason": str(result)}
    return {"state": "waiting"}
