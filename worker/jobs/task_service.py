"""Finds the service that a task's jobs are sent to.

The service is an attribute of the task's class (`ServiceTask.service`). It cannot be derived from
the task's name or queue: a task may have any name, and two services may share a queue.
"""

from celery import Celery, current_app

from config.services import SERVICES, Service


def service_of(task: str, app: Celery | None = None) -> Service | None:
    """Find the service that a task sends its jobs to.

    Args:
        task: The task's name, as in a message or an event.
        app: The app that the task is registered with. Default: the current app.

    Returns:
        The service; None if the task belongs to no service, or this process does not know the task.
    """
    known = (app or current_app).tasks.get(task)
    return SERVICES.get(getattr(known, "service", ""))


def sends_once(task: str, app: Celery | None = None) -> bool:
    """Whether a task's jobs must not be carried out twice.

    Args:
        task: The task's name.
        app: As for `service_of`.
    """
    service = service_of(task, app)
    return service is not None and service.sends_once
