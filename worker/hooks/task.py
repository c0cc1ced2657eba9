"""The base of our tasks: what Celery may show of a job, and which failures are expected."""

import logging
from typing import Any

from celery import states
from celery.exceptions import Ignore

from config.settings import get_settings
from worker.aio.adopt import Task
from worker.deadletters.recorder import is_recorded
from worker.deadletters.replay import ONCE_ONLY
from worker.errors import InvalidArguments, JobError, Poisoned, error_of
from worker.hooks.dead_letters import recorder
from worker.hooks.stream_end import tell_ended
from worker.jobs.history import DEATHS, DOUBT

_logger = logging.getLogger(__name__)


class ServiceTask(Task):
    """An async task whose arguments and result stay out of logs, events and Flower.

    Set `show_content` to show them, for debugging.
    """

    abstract = True
    Request = "worker.hooks.request:PrivateRequest"
    throws = (JobError,)
    """A job that fails for a reason the caller can read is no error of the worker's.

    Logged in one line.
    """
    resultrepr_maxsize = 1
    """Of a result only its kind shows (`{, ...}`); the result itself is the caller's."""
    light_retry = True
    """A job that is deferred has met no error: no traceback tells of it."""
    show_content = False
    retry_on_worker_lost = True
    """A job that means to end its worker (SystemExit, MemoryError) is tried again as often as other retries allow."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.show_content:
            cls.resultrepr_maxsize = 1024

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> Any:  # noqa: ARG002 - Celery gives the signature
        """Refuse a job whose worker died too often while it held it.

        Drop one that had failed before its worker died.

        Raises:
            Poisoned: Too many did.
            celery.exceptions.Ignore: It has failed, and its caller was told; awaited.
            Exception: It has failed, and the letter is missing, or what the caller is told;
                awaited.
        """
        request = self.request
        came_again = (request.delivery_info or {}).get("redelivered") and not request.is_eager
        if came_again and is_recorded(self.name):
            return self._begin_again(request)
        return self._refuse_the_deadly(request)

    async def _begin_again(self, request: Any) -> None:
        reason = await recorder.earlier_failure(request)
        stored = self._stored(request.id)
        if reason is not None and stored.get("status") in states.READY_STATES:
            _logger.info(
                "%s has failed already: its worker died before it could tell the broker", request.id
            )
            raise Ignore
        # The result is stored before the letter: a failure that the caller may have read stands.
        if stored.get("status") == states.FAILURE and isinstance(stored.get("result"), Exception):
            raise stored["result"]
        if reason is not None:  # the result store had refused it
            raise error_of(reason)
        self._refuse_the_deadly(request)

    def _refuse_the_deadly(self, request: Any) -> None:
        deaths = (request.headers or {}).get(DEATHS)
        if type(deaths) is int and deaths >= get_settings().max_deliveries:
            raise Poisoned.after(deaths, in_doubt=self.name in ONCE_ONLY)

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> Any:  # noqa: ARG002 - as above
        """Keep a job that failed as a dead letter, before its message is acknowledged."""
        request = self.request
        if isinstance(exc, Poisoned):  # it was raised before the task could tell
            tell_ended(request, error=type(exc).__name__, reason=str(exc))
        # At a hard time limit, and where the tracer itself fails, no id is known here: the
        # consumer's request keeps the letter.
        untold = request.is_eager or request.id is None
        if untold or not is_recorded(self.name):
            return None
        # Another email under the id of one that was sent is no copy of it.
        another = isinstance(exc, InvalidArguments) and exc.another_email
        if (
            self.name in ONCE_ONLY
            and not another
            and self._stored(task_id).get("status") == states.SUCCESS
        ):
            _logger.info("%s has succeeded already, by a copy of its message", task_id)
            return None
        return recorder.record_job(request, self.name, exc)

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> Any:  # noqa: ARG002 - as above
        """Take out the letter of a job that had failed and came again.

        By a replay, or since its worker died then.

        An email's letter may also be a copy's, whose replay would be a second email: so that is
        always looked for.
        """
        request = self.request
        came_again = (request.delivery_info or {}).get("redelivered") or DOUBT in (
            request.headers or {}
        )
        looks = (came_again or self.name in ONCE_ONLY) and not request.is_eager
        return recorder.remove(task_id) if looks else None

    def _stored(self, task_id: str) -> dict[str, Any]:
        """What the result store has of a job; empty where it cannot say."""
        try:
            found: dict[str, Any] = self.backend.get_task_meta(task_id, cache=False)
        except Exception as exc:  # noqa: BLE001 - whatever it is: the job ends as it would without a store
            _logger.debug("what is stored of %s cannot be read (%s)", task_id, type(exc).__name__)
            return {}
        return found
