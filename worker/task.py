"""The base of our tasks: what Celery may show of a job, and which failures are expected."""

from typing import Any

from worker.aio.adopt import Task
from worker.errors import JobError


class ServiceTask(Task):
    """An async task whose arguments and result stay out of logs, events and Flower.

    Set `show_content` to show them, for debugging.
    """

    abstract = True
    Request = "worker.request:PrivateRequest"
    throws = (JobError,)
    """A job that fails for a reason the caller can read is no error of the worker's: logged in one line."""
    resultrepr_maxsize = 1
    """Of a result only its kind shows (`{, ...}`); the result itself is the caller's."""
    show_content = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.show_content:
            cls.resultrepr_maxsize = 1024
