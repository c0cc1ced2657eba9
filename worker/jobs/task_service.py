"""Which service a task's jobs are sent to, found by the task's name.

The task's class says it (`ServiceTask.service`), never its name: two services may share a queue,
and tasks may be named as their authors like.
"""

from celery import Celery, current_app

from config.services import SERVICES, Service


def service_of(task: str, app: Celery | None = None) -> Service | None:
    """Find the service that a task sends its jobs to.

    Args:
        task: The task's name, as a message or an event has it.
        app: The app that the task is registered with. Default: the current one.

    Returns:
        The service; None where the task belongs to no service, or this process does not know it.
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
