"""The base of our tasks: what Celery may show of a job, and which failures are expected."""

import logging
from typing import Any

from billiard.exceptions import TimeLimitExceeded
from celery.exceptions import Ignore

from config.settings import get_settings
from worker.aio.adopt import Task
from worker.deadletters import post
from worker.errors import JobError, Poisoned
from worker.history import DEATHS, DOUBT
from worker.unfinished import tell_ended

_logger = logging.getLogger(__name__)


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
    retry_on_worker_lost = True
    """A job that means to end its worker (SystemExit, MemoryError) is tried again as often as other retries allow."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.show_content:
            cls.resultrepr_maxsize = 1024

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> Any:  # noqa: ARG002 - Celery gives the signature
        """Refuse a job whose worker died too often while it held it; drop one that had failed before its worker died.

        Raises:
            Poisoned: Too many did.
            celery.exceptions.Ignore: It has failed, and its caller was told; awaited.
        """
        request = self.request
        came_again = (request.delivery_info or {}).get("redelivered") and not request.is_eager
        if came_again and post.is_kept(self.name):
            return self._begin_again(request)
        return self._refuse_the_deadly(request)

    async def _begin_again(self, request: Any) -> None:
        if await post.has_ended(request):
            _logger.info("%s has failed already: its worker died before it could tell the broker", request.id)
            raise Ignore
        self._refuse_the_deadly(request)

    @staticmethod
    def _refuse_the_deadly(request: Any) -> None:
        deaths = (request.headers or {}).get(DEATHS)
        if type(deaths) is int and deaths >= get_settings().max_deliveries:
            raise Poisoned.after(deaths)

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> Any:  # noqa: ARG002 - as above
        """Keep a job that failed as a dead letter, before its message is acknowledged."""
        request = self.request
        if isinstance(exc, Poisoned):  # it was raised before the task could tell
            tell_ended(request, error=type(exc).__name__, reason=str(exc))
        # At a hard time limit, and where the tracer itself fails (no id), the consumer's request keeps the letter.
        untold = request.is_eager or request.id is None or isinstance(exc, TimeLimitExceeded)
        return None if untold or not post.is_kept(self.name) else post.keep_job(request, self.name, exc)

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> Any:  # noqa: ARG002 - as above
        """Take out the letter of a job that had failed and came again: by a replay, or since its worker died then."""
        request = self.request
        came_again = (request.delivery_info or {}).get("redelivered") or DOUBT in (request.headers or {})
        return post.take_out(task_id) if came_again and not request.is_eager else None
