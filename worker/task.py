"""The base of our tasks: what Celery may show of a job, and which failures are expected."""

from typing import Any

from billiard.exceptions import TimeLimitExceeded
from celery.app.task import Context

from config.settings import get_settings
from worker.aio.adopt import Task
from worker.deadletters import post
from worker.errors import JobError, Poisoned
from worker.history import DEATHS
from worker.streams.ended import tell_ended


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

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:  # noqa: ARG002 - Celery gives the signature
        """Refuse a job whose worker died too often while it held it.

        Raises:
            Poisoned: It did.
        """
        deaths = (self.request.headers or {}).get(DEATHS)
        if type(deaths) is int and deaths >= get_settings().max_deliveries:
            raise Poisoned(f"{deaths} workers died while they held this job, so it is not run again by itself")

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> Any:  # noqa: ARG002 - as above
        """Keep a job that failed as a dead letter, before its message is acknowledged."""
        request = self.request
        if isinstance(exc, Poisoned):  # it was raised before the task could tell
            tell_ended(request, error=type(exc).__name__, reason=str(exc))
        # The hard time limit is told on the consumer's thread, where the request keeps the letter itself.
        if request.is_eager or isinstance(exc, TimeLimitExceeded) or not post.is_kept(self.name):
            return None
        if request.id is None:  # the tracer itself failed, after the request was put away
            request = Context(id=task_id, args=args, kwargs=kwargs)
        return post.keep_job(request, self.name, exc)
