"""The base class of our tasks: it hides the content of jobs, and handles how they end."""

import logging
from typing import Any

from celery import states
from celery.app.task import get_actual_ignore_result
from celery.exceptions import Ignore

from config.celery import queue_of
from config.current import get_settings
from config.services import SERVICES
from worker.aio.adopt import Task
from worker.aio.mapping import await_items_of, has_items
from worker.aio.transport.headers import DEATHS
from worker.deadletters.recorder import is_recorded
from worker.errors import InvalidArguments, JobError, Poisoned, error_of
from worker.foreign_json import as_object, member
from worker.hooks.dead_letters import recorder
from worker.hooks.stream_end import close_stream
from worker.jobs.custom_task import wrap
from worker.jobs.dedupe import holds_key, release_key
from worker.jobs.history import DOUBT, HEADER
from worker.jobs.outages import Outages
from worker.jobs.ownership import Ownership
from worker.notifications import announce, announces, end_of_failure
from worker.runtime import Runtime

_logger = logging.getLogger(__name__)

_DESTINATIONS = ("queue", "exchange", "routing_key")


def is_custom(task: str) -> bool:
    """Whether a task is the user's own, or Celery's own task that calls one for many items."""
    return has_items(task) or not (queue_of(task) or task.startswith("celery."))


def _shared() -> tuple[Ownership | None, Outages]:
    runtime = Runtime.current()
    return runtime.ownership, runtime.outages


class ServiceTask(Task):
    """An async task whose arguments and result stay out of logs, events and Flower.

    To show them for debugging, set `show_content`.
    """

    abstract = True
    service = ""
    """The service that serves the task's jobs, one of `config.services.SERVICES`.

    Tasks set it: `@app.task(bind=True, name="tasks.ai.complete", service="groq")`. It is empty for
    tasks that need no service, such as those of `tasks.admin`.
    """
    streams = False
    """Whether jobs of the task may ask for their answer as a stream (`stream=True`)."""
    Request = "worker.hooks.request:PrivateRequest"
    throws = (JobError,)
    """Failures that are not errors of the worker: Celery logs them in one line."""
    resultrepr_maxsize = 1
    """Celery shows only the type of a result (`{, ...}`); its content is for the caller."""
    light_retry = True
    """Deferring a job is not an error, so the log line has no traceback."""
    show_content = False
    retry_on_worker_lost = True
    """Retry a job whose error would end a worker (SystemExit, MemoryError), up to `max_retries`."""

    def __init__(self) -> None:
        await_items_of(self)  # before `run` is wrapped
        if is_custom(self.name):
            self.run = wrap(self, _shared)
        super().__init__()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.service and cls.service not in SERVICES:
            raise ValueError(f"{cls.name}: there is no service {cls.service!r} in config.services")
        if cls.show_content:
            cls.resultrepr_maxsize = 1024

    def signature(self, args: Any = None, *starargs: Any, **starkwargs: Any) -> Any:
        """Make a signature that names the task's queue.

        The worker that runs the previous step of a chain publishes it, and may not know the queue.
        """
        made = super().signature(args, *starargs, **starkwargs)
        queue = queue_of(self.name)
        if queue and made.options.keys().isdisjoint(_DESTINATIONS):
            made.options["queue"] = queue
        return made

    def sends_once(self) -> bool:
        """Whether a job must not be carried out twice, just as an email must not be sent twice."""
        return bool(self.service) and SERVICES[self.service].sends_once

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> Any:  # noqa: ARG002 - Celery's
        """Refuse a job with too many deaths of workers; drop a job that had already failed.

        Raises:
            Poisoned: Too many workers died while they held the job.
            celery.exceptions.Ignore: The job has failed, and its result and its dead letter are
                stored. Raised by the awaitable.
            Exception: The job has failed, but its result or its dead letter is missing. This is the
                job's own error. Raised by the awaitable.
        """
        request = self.request
        was_redelivered = member(request.delivery_info, "redelivered") and not request.is_eager
        if was_redelivered and is_recorded(self.name):
            return self._begin_again(request)
        return self._refuse_poisoned(request)

    async def _begin_again(self, request: Any) -> None:
        reason = await recorder.earlier_failure(request)
        stored = self._stored(request.id)
        if reason is not None and stored.get("status") in states.READY_STATES:
            _logger.info(
                "%s has failed already: its worker died before it acknowledged; this copy is "
                "dropped",
                request.id,
            )
            raise Ignore
        # The result is stored before the dead letter, and the caller may have read it.
        if stored.get("status") == states.FAILURE and isinstance(stored.get("result"), Exception):
            raise stored["result"]
        if reason is not None:  # the result store had refused the result
            raise error_of(reason)
        self._refuse_poisoned(request)

    def _refuse_poisoned(self, request: Any) -> None:
        deaths = member(request.headers, DEATHS)
        if type(deaths) is int and deaths >= get_settings().max_deliveries:
            raise Poisoned.after(deaths, in_doubt=self.sends_once())

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> Any:  # noqa: ARG002 - as above
        """Turn a failed job into a dead letter, before its message is acknowledged."""
        request = self.request
        if isinstance(exc, Poisoned) and self.streams:  # raised before the task ran
            close_stream(request, error=type(exc).__name__, reason=str(exc))
        # At a hard time limit, or if the tracer itself fails, the id is unknown here. Then
        # `PrivateRequest` writes the dead letter.
        if request.is_eager or request.id is None or not is_recorded(self.name):
            return None
        # An email with different content under the id of a sent email is not a copy of it.
        another = isinstance(exc, InvalidArguments) and exc.another_email
        if (
            self.sends_once()
            and not another
            and self._stored(task_id).get("status") == states.SUCCESS
        ):
            _logger.info(
                "%s has succeeded already, by a copy of its message; this copy leaves no dead "
                "letter",
                task_id,
            )
            return None
        return self._after_failure(request, exc)

    async def _after_failure(self, request: Any, exc: Exception) -> None:
        # The dead letter comes last: once it exists, a redelivered job is not ended again.
        await announce(self.app, request, self.name, states.FAILURE, end_of_failure(exc))
        await recorder.record_job(request, self.name, exc)
        await _release_key(request)

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> Any:  # noqa: ARG002 - as above
        """Delete the dead letter and the state `RETRY` that earlier runs of a job have left.

        For an email this always looks for a dead letter: a copy of the message may have written
        one, and its replay would send a second email.
        """
        request = self.request
        if self._shows_retry(request):
            # Store an end, so that a `RETRY` that is stored late does not replace it.
            self.backend.store_result(task_id, None, states.SUCCESS, request=request)
        was_redelivered = member(request.delivery_info, "redelivered")
        was_replayed = DOUBT in as_object(request.headers)
        may_have_one = (
            was_redelivered or was_replayed or self.sends_once()
        ) and not request.is_eager
        if not (may_have_one or holds_key(request) or announces(self.name, request.kwargs)):
            return None
        return self._after_success(request, task_id, retval, may_have_one=bool(may_have_one))

    def _shows_retry(self, request: Any) -> bool:
        """Whether a successful job still has the state `RETRY`, because it reports no result."""
        if not request.retries and HEADER not in as_object(request.headers):
            return False  # almost all jobs
        return bool(get_actual_ignore_result(self, request)) and not request.is_eager

    async def _after_success(
        self, request: Any, task_id: str, result: Any, *, may_have_one: bool
    ) -> None:
        await announce(self.app, request, self.name, states.SUCCESS, {"result": result})
        if may_have_one:
            await recorder.remove(task_id)
        await _release_key(request)

    def _stored(self, task_id: str) -> dict[str, Any]:
        """Return the stored result of a job; empty if it cannot be read."""
        try:
            stored: dict[str, Any] = self.backend.get_task_meta(task_id, cache=False)
        except Exception as exc:  # noqa: BLE001 - on any error the job ends as if there were no store
            _logger.debug("cannot read the result of %s (%s)", task_id, type(exc).__name__)
            return {}
        return stored


async def _release_key(request: Any) -> None:
    """Free the dedupe key that a job held, once its end is stored."""
    if holds_key(request):
        runtime = Runtime.current()
        await release_key(request, runtime.dedupe_keys, runtime.wake_jobs)
