"""What the rest of Celery sees of a job: its name and state, not what it says.

And how it ends where no task runs.
"""

import logging
from datetime import UTC, datetime
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery import states
from celery.exceptions import Ignore, InvalidTaskError, Reject, Retry
from celery.utils.time import timezone
from celery.worker import state
from celery.worker.request import Request
from kombu.asynchronous.timer import to_timestamp

from worker.deadletters.capture import reason_of
from worker.deadletters.recorder import is_recorded
from worker.deadletters.replay import ONCE_ONLY
from worker.errors import DeadlineExceeded, JobError, OutcomeUnknown
from worker.hooks.dead_letters import recorder
from worker.hooks.stream_end import tell_ended
from worker.jobs.history import HEADER, came_again, doubt_ms

_logger = logging.getLogger(__name__)

HIDDEN = "<hidden>"
_NO_END = (Retry, Ignore, Terminated, MemoryError)


class PrivateRequest(Request):
    """A request whose arguments do not show in events, logs, `inspect` or Flower.

    Producers put a repr of the arguments into the message's headers, prompts and mail bodies
    included; here it is replaced before anything reads it. Set `show_content` on the task class to
    leave it, for debugging.
    """

    _unkept = False
    _told = False
    """Whether the result store has the end already."""

    def __init__(self, message: Any, **options: Any) -> None:
        super().__init__(message, **options)
        _check(self)
        if not getattr(self.task, "show_content", False):
            self._argsrepr = self._kwargsrepr = HIDDEN
            self._request_dict["argsrepr"] = self._request_dict["kwargsrepr"] = HIDDEN

    def maybe_expire(self) -> bool:
        """Whether the producer's `expires` is over.

        Unlike Celery's own it does not ban the id: a replay has it too.
        """
        expires: datetime | None = self.expires
        return expires is not None and datetime.now(UTC if expires.tzinfo else None) > expires

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:  # noqa: FBT001 - Celery's
        if expired:
            if self._success_was_stored():  # by a copy, or only the acknowledgement was lost
                self._have_done()
                return
            late = self._too_late()
            if (
                self.store_errors
            ):  # by the name that letter and stream have, and not Celery's for every revoked job
                self.task.backend.store_result(self.id, late, states.REVOKED, request=self._context)
                self._told = True
            self._keep(late)
        else:
            if self._is_in_doubt():
                reason += "; an earlier attempt may have been accepted"
            tell_ended(self._context, error="TaskRevokedError", reason=f"the job was {reason}")
        super()._announce_revoked(reason, terminated, signum, expired)

    @property
    def store_errors(self) -> bool:
        """Whether Celery stores how the job ends."""
        return not self._told and bool(super().store_errors)

    def _have_done(self) -> None:
        """Drop a job that has succeeded already."""
        _logger.info(
            "%s has succeeded already, although the time that its producer gave it is over", self.id
        )
        state.task_ready(self)
        self.acknowledge()
        self._already_revoked = True

    def _too_late(self) -> JobError:
        """Why a job does not run any more.

        An email in doubt must not look as if it had not been sent.
        """
        headers = self._context.headers
        had_a_turn = isinstance(headers, dict) and HEADER in headers
        what = "it was not done" if had_a_turn else "it had not begun"
        late = DeadlineExceeded(f"{what} when the time that its producer gave it was over")
        if self._is_in_doubt():
            return OutcomeUnknown(f"an earlier attempt may have been accepted, and then {late}")
        return late

    def _is_in_doubt(self) -> bool:
        """Whether it is an email that an earlier turn may have sent."""
        return self.name in ONCE_ONLY and bool(
            doubt_ms(self._context.headers) or came_again(self._context)
        )

    def on_timeout(self, soft: bool, timeout: float) -> None:  # noqa: FBT001 - Celery's signature
        """Keep a job that is ended by the hard time limit as a dead letter."""
        if not soft and not state.should_terminate:
            self._keep(TimeLimitExceeded(timeout))
        super().on_timeout(soft, timeout)

    def on_failure(
        self,
        exc_info: Any,
        send_failed_event: bool = True,  # noqa: FBT001, FBT002 - Celery's
        return_ok: bool = False,  # noqa: FBT001, FBT002 - Celery's
    ) -> Any:
        """Keep a job that failed outside of its task, which hears nothing of it, as a dead letter."""
        exc = exc_info.exception
        exc = exc.exc if isinstance(exc, ExceptionWithTraceback) else exc
        # The tracer itself may fail, too: then the task has put its request away and knows no more
        # than an id.
        if (
            isinstance(exc, Exception)
            and (not return_ok or exc_info.internal)
            and not self._runs_on(exc)
        ):
            self._keep(exc)
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def _runs_on(self, exc: Exception) -> bool:
        """Whether this is no end of the job, or a person's will."""
        if isinstance(exc, Reject):
            return bool(exc.requeue)
        if not isinstance(exc, WorkerLostError):
            return isinstance(exc, _NO_END)
        # A job that meant to end its worker: Celery tries it again, unless it had succeeded before.
        most = self.task.max_retries if self.task.retry_on_worker_lost else None
        return most is None or self._context.retries < most or bool(self._success_was_stored())

    def _keep(self, exc: BaseException) -> None:
        name = type(exc).__name__
        tell_ended(self._context, error=name, reason=reason_of(exc).removeprefix(f"{name}: "))
        if is_recorded(self.name):
            self._unkept = not recorder.record_request(self._context, self.name, exc)

    def acknowledge(self) -> None:
        """Let the message go.

        Back to its queue where its letter is not written yet, so that the job ends once more.
        """
        if self._unkept:
            self.reject(requeue=True)
        else:
            super().acknowledge()

    def info(self, safe: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002 - Celery's signature
        """What `inspect active` and Flower's worker page show."""
        found: dict[str, Any] = super().info(safe=safe)
        if not getattr(self.task, "show_content", False):
            found |= {"args": HIDDEN, "kwargs": HIDDEN}
        return found


def _check(request: Any) -> None:
    """Refuse what Celery would drop without a dead letter later on.

    `worker.hooks.message_check` has looked at the rest.

    Raises:
        InvalidTaskError: The message does not follow Celery's protocol.
    """
    if request.eta is not None:
        try:
            to_timestamp(timezone.to_system(request.eta))  # type: ignore[no-untyped-call]
        except (OverflowError, ValueError):
            raise InvalidTaskError("its instant is out of any calendar") from None
