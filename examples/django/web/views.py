"""The views: the page, and the addresses that it calls."""

import json
from typing import Any
from uuid import UUID

from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET, require_POST

from web import queue

_REMEMBERED = 50


@require_GET
def page(request: HttpRequest) -> HttpResponse:
    """Show the page."""
    return render(request, "page.html")


@require_POST
def ask(request: HttpRequest) -> HttpResponse:
    """Enqueue a completion."""
    return _enqueue(request, "tasks.ai.complete", ("prompt",))


@require_POST
def send(request: HttpRequest) -> HttpResponse:
    """Enqueue an email."""
    return _enqueue(request, "tasks.email.send", ("to", "subject", "text"))


@require_GET
def job(request: HttpRequest, job_id: UUID) -> HttpResponse:
    """Return the state of one of the visitor's jobs."""
    # Redis cannot distinguish an unknown job from a job that waits, and visitors must not see each
    # other's jobs.
    if str(job_id) not in request.session.get("jobs", []):
        raise Http404
    return JsonResponse(queue.state_of(str(job_id)))


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:  # noqa: ARG001 - Django names them
    """Answer 404 for a job or address that does not exist."""
    return JsonResponse({"detail": "there is no such job"}, status=404)


def _enqueue(request: HttpRequest, task: str, names: tuple[str, ...]) -> HttpResponse:
    try:
        given = json.loads(request.body)
    except ValueError:
        given = None
    given = given if isinstance(given, dict) else {}
    arguments: dict[str, Any] = {name: given.get(name) for name in names}
    if not all(isinstance(value, str) and value for value in arguments.values()):
        return JsonResponse(
            {"detail": f"give {', '.join(names)} as JSON, each a string"}, status=422
        )
    job_id = queue.enqueue(task, **arguments)
    request.session["jobs"] = [*request.session.get("jobs", []), job_id][-_REMEMBERED:]
    return JsonResponse({"id": job_id, "job": f"/jobs/{job_id}"}, status=202)
