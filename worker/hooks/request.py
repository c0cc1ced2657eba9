"""Extends Celery's request: it hides a job's content, and records ends outside of the task."""

import logging
from datetime import UTC, datetime
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery import states
from celery.exceptions import Ignore, InvalidTaskError, Reject, Retry
from celery.signals import task_revoked
from celery.utils.time import timezone
from celery.worker import state
from celery.worker.request import Request
from kombu.asynchronous.timer import to_timestamp

from worker.deadletters.capture import reason_of
from worker.deadletters.recorder import is_recorded
from worker.errors import DeadlineExceeded, JobError, OutcomeUnknown
from worker.hooks.dead_letters import recorder
from worker.hooks.notifications import announce_from_consumer
from worker.hooks.revoked import of_process as revoked_jobs
from worker.hooks.stream_end import close_stream
from worker.jobs.custom_task import end_run
from worker.jobs.history import HEADER, doubt_ms, was_redelivered
from worker.logs import redactor
from worker.notifications import announces, end_of_failure, is_announced

_logger = logging.getLogger(__name__)

HIDDEN = "<hidden>"
_WORDS = frozenset({"exception", "traceback"})
_NO_FAILURE = (Retry, Ignore, Terminated, MemoryError)


class PrivateRequest(Request):
    """A request whose arguments do not show in events, logs, `inspect` or Flower.

    Producers put a repr of the arguments, with prompts and mail bodies, into the message's headers.
    This class replaces it before anything reads it. To show the arguments for debugging, set
    `show_content` on the task class.
    """

    _requeue = False
    """Whether the job has ended and its dead letter could not be written."""
    _is_stored = False
    """Whether the result store has the job's end already."""
    _retry: Any = None
    """The retry that the event `task-retried` reports."""

    def __init__(self, message: Any, **options: Any) -> None:
        if not options.get("decoded", True):  # else the tracer would decode the body a second time
            options |= {"body": message.payload, "decoded": True}
        super().__init__(message, **options)
        _check(self)
        if not self.task.show_content:
            self._argsrepr = self._kwargsrepr = HIDDEN
            for headers in (self._request_dict, message.headers):
                headers["argsrepr"] = headers["kwargsrepr"] = HIDDEN

    def on_retry(self, exc_info: Any) -> None:
        """Acknowledge a job that goes back to its queue, and send the event `task-retried`."""
        exc = exc_info.exception
        self._retry = exc.exc if isinstance(exc, ExceptionWithTraceback) else exc
        super().on_retry(exc_info)

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002 - Celery's signature
        """Send an event; `task-retried` also has the task's `name`, `countdown_s` and `waits`."""
        if type == "task-retried":
            fields |= {
                "name": self.name,
                "countdown_s": getattr(self._retry, "when", None),
                "waits": getattr(self._retry, "waits", None),
            }
        if type == "task-failed":  # an SDK's error quotes the provider's answer
            fields |= {name: redactor.redact(str(fields[name])) for name in _WORDS & fields.keys()}
        super().send_event(type, **fields)

    def maybe_expire(self) -> bool:
        """Whether the producer's `expires` has passed.

        Unlike Celery's method, this does not revoke the id, because a replay has the same id.
        """
        expires: datetime | None = self.expires
        return expires is not None and datetime.now(UTC if expires.tzinfo else None) > expires

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:  # noqa: FBT001 - Celery's
        end_run(self.id)
        if expired:
            if self._success_was_stored():  # by a copy, or the acknowledgement was lost
                self._drop_succeeded()
                return
            error = self._expiry_error()
            if self.store_errors:
                # Store the error of the dead letter and the stream, not Celery's general error.
                self.task.backend.store_result(
                    self.id, error, states.REVOKED, request=self._context
                )
                self.task.backend.end_chain(self._context, error, states.REVOKED)
                self._is_stored = True
            self._dead_letter(error, state=states.REVOKED)
        else:
            if self._is_in_doubt():
                reason += "; an earlier attempt may have been accepted"
            self._close_stream("TaskRevokedError", f"the job was {reason}")
            revoked = {"type": "TaskRevokedError", "message": f"the job was {reason}"}
            self._announce_end(states.REVOKED, {"error": revoked})
            if not terminated and revoked_jobs.end(self, reason):
                return
        super()._announce_revoked(reason, terminated, signum, expired)

    def acknowledge_revoked(self) -> None:
        """Acknowledge a revoked job whose end is stored, and send Celery's signal."""
        self.acknowledge()
        task_revoked.send(
            sender=self.task, request=self._context, terminated=False, signum=None, expired=False
        )

    @property
    def store_errors(self) -> bool:
        """Whether Celery must store how the job ends."""
        return not self._is_stored and bool(super().store_errors)

    def _drop_succeeded(self) -> None:
        _logger.info("%s has expired, but it had succeeded before; its result stays", self.id)
        state.task_ready(self)
        self.acknowledge()
        self._already_revoked = True

    def _expiry_error(self) -> JobError:
        """Make the error of an expired job.

        For an email in doubt, the error says that it may have been sent.
        """
        headers = self._context.headers
        has_begun = isinstance(headers, dict) and HEADER in headers
        state = "it was not done" if has_begun else "it had not begun"
        error = DeadlineExceeded(f"{state} when its producer's expiry time passed")
        if self._is_in_doubt():
            return OutcomeUnknown(f"an earlier attempt may have been accepted, and then {error}")
        return error

    def _close_stream(self, error: str, reason: str) -> None:
        if self.task.streams:
            close_stream(self._context, error=error, reason=reason)

    def _is_in_doubt(self) -> bool:
        """Whether the job is an email that an earlier attempt may have sent."""
        return self.task.sends_once() and bool(
            doubt_ms(self._context.headers) or was_redelivered(self._context)
        )

    def on_timeout(self, soft: bool, timeout: float) -> None:  # noqa: FBT001 - Celery's signature
        """Turn a job that exceeds the hard time limit into a dead letter."""
        if not soft:
            end_run(self.id)
        if not soft and not state.should_terminate:
            self._dead_letter(TimeLimitExceeded(timeout))
        super().on_timeout(soft, timeout)

    def on_failure(
        self,
        exc_info: Any,
        send_failed_event: bool = True,  # noqa: FBT001, FBT002 - Celery's
        return_ok: bool = False,  # noqa: FBT001, FBT002 - Celery's
    ) -> Any:
        """Turn a job that failed outside of its task into a dead letter."""
        exc = exc_info.exception
        exc = exc.exc if isinstance(exc, ExceptionWithTraceback) else exc
        # If Celery's tracer itself fails (`internal`), the task no longer has its request.
        if (
            isinstance(exc, Exception)
            and (not return_ok or exc_info.internal)
            and not self._is_no_failure(exc)
        ):
            self._dead_letter(exc)
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def _is_no_failure(self, exc: Exception) -> bool:
        """Whether the job will run again, or a person has ended it."""
        if isinstance(exc, Reject):
            return bool(exc.requeue)
        if not isinstance(exc, WorkerLostError):
            return isinstance(exc, _NO_FAILURE)
        # The job tried to end its worker. Celery retries it unless it had succeeded before.
        limit = self.task.max_retries if self.task.retry_on_worker_lost else None
        return limit is None or self._context.retries < limit or bool(self._success_was_stored())

    def _stored_result(self) -> Any:
        try:
            return self.task.backend.get_task_meta(self.id, cache=False).get("result")
        except Exception as exc:  # noqa: BLE001 - the receiver can read the result itself
            _logger.debug("cannot read the result of %s (%s)", self.id, type(exc).__name__)
            return None

    def _announce_end(self, state: str, end: dict[str, Any]) -> None:
        announce_from_consumer(self.app, self._context, self.name, state, end)

    def _dead_letter(self, exc: BaseException, *, state: str = states.FAILURE) -> None:
        name = type(exc).__name__
        self._announce_end(state, end_of_failure(exc))
        self._close_stream(name, reason_of(exc).removeprefix(f"{name}: "))
        if is_recorded(self.name):
            self._requeue = not recorder.record_request(self._context, self.name, exc)

    def _announce_stored_success(self) -> None:
        """Announce a success of which another worker stored the result before it died.

        In this case Celery finds the result, and does not run the task.
        """
        if (
            # This check comes first, because reading `_context` makes Celery build the context.
            announces(self.name, self.kwargs)
            and was_redelivered(self._context)
            and not is_announced(self._context)
            and self._success_was_stored()
        ):
            self._announce_end(states.SUCCESS, {"result": self._stored_result()})

    def acknowledge(self) -> None:
        """Acknowledge the message.

        If the job's dead letter could not be written, reject the message instead. The broker then
        delivers it again, and the job ends once more.
        """
        if self._requeue:
            self.reject(requeue=True)
        else:
            self._announce_stored_success()
            super().acknowledge()

    def info(self, safe: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002 - Celery's signature
        """Return the fields that `inspect active` and Flower's worker page show of the job."""
        info: dict[str, Any] = super().info(safe=safe)
        if not self.task.show_content:
            info |= {"args": HIDDEN, "kwargs": HIDDEN}
        return info


def _check(request: Any) -> None:
    """Reject an `eta` that would later make Celery drop the job without a dead letter.

    `worker.hooks.message_check` checks everything else.

    Raises:
        InvalidTaskError: The message does not follow Celery's protocol.
    """
    if request.eta is not None:
        try:
            to_timestamp(timezone.to_system(request.eta))  # type: ignore[no-untyped-call]
        except (OverflowError, ValueError):
            raise InvalidTaskError("its eta is outside the range of dates") from None
