"""Celery's consumer, except that no message can end it; unusable messages become dead letters."""

import errno
import logging
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from celery.exceptions import CPendingDeprecationWarning, InvalidTaskError, NotRegistered
from celery.worker import state
from celery.worker.consumer import Consumer as StockConsumer
from kombu.exceptions import ContentDisallowed, DecodeError, OperationalError

from config.current import get_settings
from worker.aio.redis_retry import safe_message, warn
from worker.deadletters.capture import reason_of
from worker.deadletters.dead_letter import one_line
from worker.errors import Poisoned
from worker.foreign_json import as_text, member
from worker.hooks.dead_letters import recorder
from worker.hooks.events import EventSendingConsumer
from worker.hooks.losses import Losses
from worker.hooks.message_check import problem_with
from worker.hooks.misplaced import move, right_queue
from worker.hooks.quarantine import Quarantine, settle_deaths
from worker.hooks.rabbitmq import MOST_RETURNS, returns_of
from worker.hooks.redelivery import adopt
from worker.jobs.task_service import sends_once

_logger = logging.getLogger(__name__)

_FIRST_PAUSE_S = 1.0
_PAUSE_STEP_S = 0.25
_LONGEST_PAUSE_S = 3.0
"""The first and the longest pause between two tries to connect, and the growth of each pause.

The keys may be idle for one pause after an outage, so the pause is short after a short outage.
"""
_HEARTBEAT_S = 5
"""The interval of the heartbeats by which Flower recognizes workers."""
_CALM_S = 10.0
"""After this long without a refusal, the next pause is the shortest again."""
_STEP_S = 0.25
_NO_HANDLES = frozenset({errno.EMFILE, errno.ENFILE})
_NO_HANDLE = (
    "no connection, because this process may open no more files: raise its limit (ulimit -n)"
)


class Pauses:
    """Computes pauses that grow with each refusal; they are short again after a calm time."""

    def __init__(self) -> None:
        self._pause_s = 0.0
        self._refused_at_s = float("-inf")

    def next(self, now_s: float) -> float:
        """Return the pause after a refusal, in seconds.

        Args:
            now_s: The time of the refusal, in seconds on any clock.
        """
        again = now_s - self._refused_at_s < self._pause_s + _CALM_S
        longer_s = min(self._pause_s + _PAUSE_STEP_S, _LONGEST_PAUSE_S)
        self._pause_s = longer_s if again else _FIRST_PAUSE_S
        self._refused_at_s = now_s
        return self._pause_s


class Consumer(EventSendingConsumer):
    """Use it as `worker_consumer = "worker.hooks.consumer:Consumer"`."""

    class Blueprint(StockConsumer.Blueprint):
        """The steps of the consumer. If no file handle is left, they are started again later.

        Celery would end the worker, and revoke and so lose the jobs that run.
        """

        def start(self, parent: Any) -> None:
            """Start the steps, the last of which takes messages until the connection is lost."""
            try:
                super().start(parent)
            except OSError as exc:
                if exc.errno not in _NO_HANDLES:
                    raise
                raise OperationalError(_NO_HANDLE) from exc

    _notes_acks = False

    def __init__(
        self, *args: Any, worker_options: dict[str, Any] | None = None, **options: Any
    ) -> None:
        super().__init__(
            *args, worker_options=without_gossip_and_mingle(worker_options or {}), **options
        )
        self.quarantine = Quarantine(self)
        self._pauses = Pauses()
        self._losses = Losses()
        self._restart_state.maxR = 0  # else Celery counts restarts and logs a traceback
        # kombu raises this error if the broker cannot be reached; Celery would end the worker.
        self.connection_errors = (*self.conninfo.connection_errors, OperationalError)

    def ensure_connected(self, conn: Any) -> Any:
        """Connect; try again every few seconds until it succeeds.

        Celery's pauses grow up to 30 s, but a broker that fails over is back after 5 or 6 s.
        """
        conn.ensure_connection = partial(
            conn.ensure_connection,
            interval_start=_FIRST_PAUSE_S,
            interval_step=_PAUSE_STEP_S,
            interval_max=_LONGEST_PAUSE_S,
        )
        return super().ensure_connected(conn)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Connect again; at growing intervals if the broker refuses, for instance if it is full.

        The intervals also grow if the broker ends connections as soon as they are open.
        """
        with warnings.catch_warnings():
            # Celery warns each time that a setting must be chosen; config/celery.py has chosen.
            warnings.simplefilter("ignore", CPendingDeprecationWarning)
            super().on_connection_error_after_connected(exc)
        if not isinstance(exc, self.conninfo.connection_errors):
            self._pause("the broker refuses", exc)
        elif self._losses.are_frequent(time.monotonic()):
            self._pause("the broker ends connections as soon as they are open", exc)

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Connect again, at growing intervals."""
        self._pause("cannot connect to the broker", exc)

    def _pause(self, problem: str, exc: Exception) -> None:
        pause_s = self._pauses.next(now_s := time.monotonic())
        _logger.warning("%s: %s; next try in %g s", problem, safe_message(exc), pause_s)
        while time.monotonic() < now_s + pause_s:
            state.maybe_shutdown()
            time.sleep(_STEP_S)

    def reset_rate_limits(self) -> None:
        """Apply the tasks' new rate limits, also to jobs that wait because of an earlier limit.

        With Celery's method these jobs wait for the timer of the earlier limit: after "1/h", for
        hours.
        """
        earlier = [bucket for bucket in self.task_buckets.values() if bucket is not None]
        super().reset_rate_limits()
        for bucket in earlier:
            held = list(bucket.contents)
            bucket.clear_pending()
            for request, tokens in held:
                self._limit_by_now(request, tokens)

    def _limit_post_eta(self, request: Any, bucket: Any, tokens: int) -> None:  # noqa: ARG002 - Celery's
        self.qos.decrement_eventually()
        self._limit_by_now(request, tokens)

    def _limit_by_now(self, request: Any, tokens: int) -> None:
        bucket = self.task_buckets[request.task.name]
        if bucket is None:
            self._limit_move_to_pool(request)
        else:
            self._limit_task(request, bucket, tokens)

    def call_soon_ack(self, settle: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Acknowledge or reject at once if the transport batches acknowledgements itself.

        Celery would schedule each acknowledgement on its loop. If the message's connection is gone,
        nothing is sent, because the broker delivers the message again. Celery would log a traceback
        for each such message.
        """
        if self._notes_acks:
            return settle(*args, **options)
        if _is_lost(getattr(settle, "__self__", None)):
            warn("jobs ended after their connection was lost; the broker delivers them again")
            return None
        return super().call_soon_ack(settle, *args, **options)

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Any], None]:
        """Return the function that handles each message from the broker."""
        connection = getattr(self, "connection", None)
        self._notes_acks = bool(connection and getattr(connection.transport, "notes_acks", False))
        handle = super().create_task_handler(*args, **options)
        broken: tuple[type[Exception], ...] = (*self._broker_errors(), MemoryError)

        def on_task_received(message: Any) -> None:
            # Check this before anything is decoded, because decoding may kill a worker. With one
            # death fewer, the task itself refuses the job, and the job's callbacks run.
            deaths, returns = settle_deaths(message.headers), returns_of(message)
            if deaths and deaths > get_settings().max_deliveries:
                self._on_deadly_task(message, deaths)
            elif returns > MOST_RETURNS:
                self._on_deadly_task(message, returns)
            elif not self._has_taken(message, run):
                run(message)

        def run(message: Any) -> None:
            try:
                if queue := right_queue(message):
                    move(message, queue, self.connection_errors)
                elif problem := problem_with(message, known=self.strategies):
                    self.on_invalid_task(None, message, InvalidTaskError(problem))
                else:
                    handle(message)
            except broken:
                raise
            except Exception as exc:  # noqa: BLE001 - the message would end each worker in turn
                self.on_invalid_task(None, message, exc)

        return on_task_received

    def _has_taken(self, message: Any, run: Callable[[Any], None]) -> bool:
        """Whether a message's job already runs here, or waits here as a suspect."""
        runs_on = not self._notes_acks and adopt(message, self.call_soon_ack)
        return runs_on or self.quarantine.takes(message, run)

    def on_close(self) -> None:
        """Forget the messages of the lost connection."""
        super().on_close()
        self.quarantine.forget()

    def _on_deadly_task(self, message: Any, deaths: int) -> None:
        """Turn a job that killed workers before its task could refuse it into a dead letter."""
        exc = Poisoned.after(deaths, in_doubt=sends_once(str(message.headers.get("task"))))
        _logger.error(
            "the message of %s is dropped unread: %s", one_line(message.headers.get("id")), exc
        )
        self._dead_letter(message, reason_of(exc), lambda: None)
        self._store_failure(message, exc)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Turn a message that is not a job into a dead letter."""
        self._dead_letter(
            message,
            "the message is not a Celery job",
            lambda: super(Consumer, self).on_unknown_message(body, message),
        )

    def on_unknown_task(self, body: Any, message: Any, exc: Any) -> None:
        """Turn a job of a task that this worker does not know into a dead letter."""
        name = one_line(member(message.headers, "task") or "")
        self._dead_letter(
            message,
            f"{NotRegistered.__name__}: the workers do not know the task {name}",
            lambda: super(Consumer, self).on_unknown_task(body, message, exc),
            runnable=True,
        )

    def on_invalid_task(self, body: Any, message: Any, exc: Any) -> None:
        """Turn a job that does not follow the protocol into a dead letter."""
        reason = _reason(message, exc)
        self._dead_letter(
            message, reason, lambda: super(Consumer, self).on_invalid_task(body, message, exc)
        )
        self._store_failure(message, InvalidTaskError(reason))

    def on_decode_error(self, message: Any, exc: Any) -> None:
        """Turn a job whose body cannot be read into a dead letter."""
        reason = _reason(message, exc)
        self._dead_letter(
            message, reason, lambda: super(Consumer, self).on_decode_error(message, exc)
        )
        self._store_failure(message, InvalidTaskError(reason))

    def _broker_errors(self) -> tuple[type[Exception], ...]:
        # kombu's list contains KeyError, which a missing header raises as well.
        errors = (*self.connection_errors, *self.channel_errors)
        return tuple(
            error for error in errors if not issubclass(error, LookupError | TypeError | ValueError)
        )

    def _dead_letter(
        self, message: Any, reason: str, stock: Callable[[], None], *, runnable: bool = False
    ) -> None:
        if not message.acknowledged:
            recorder.record_message(message, reason=reason, runnable=runnable)
        try:
            stock()
        except self._broker_errors():
            raise
        except Exception as exc:  # noqa: BLE001 - Celery reads fields that the message may lack
            _logger.warning(
                "cannot report an unusable message (%s); it is dropped anyway",
                type(exc).__name__,
            )
        if not message.acknowledged:
            message.reject_log_error(_logger, self.connection_errors)

    def _store_failure(self, message: Any, error: Exception) -> None:
        if job := as_text(member(message.headers, "id")):
            try:
                self.app.backend.mark_as_failure(job, error)
            except Exception as exc:  # noqa: BLE001 - the dead letter and the log say it as well
                _logger.warning(
                    "cannot store the failure of an unusable message (%s); its dead letter has the "
                    "reason",
                    type(exc).__name__,
                )


def without_gossip_and_mingle(options: dict[str, Any]) -> dict[str, Any]:
    """Turn off gossip and mingle, whose messages grow with the square of the number of workers.

    Gossip elects leaders, and Keywheel needs no leader. Mingle sends the revoked jobs to a new
    worker, but they are in Redis (`worker.cancellations`).
    """
    heartbeat_s = options.get("heartbeat_interval") or _HEARTBEAT_S
    return options | {
        "without_gossip": True,
        "without_mingle": True,
        "heartbeat_interval": heartbeat_s,
    }


def _is_lost(message: Any) -> bool:
    """Whether the channel of a message has lost its connection."""
    channel = getattr(message, "channel", None)
    return channel is not None and getattr(channel, "connection", channel) is None


def _reason(message: Any, exc: Any) -> str:
    """Say why a message cannot be run, without quoting it."""
    if isinstance(exc, ContentDisallowed):
        content_type = one_line(message.content_type, longest=60)
        return f"its content type {content_type} is not accepted: only JSON is"
    if isinstance(exc, DecodeError):
        return "its body cannot be read: it is not valid JSON"
    if isinstance(exc, InvalidTaskError):
        # Celery's own sentences quote the value. Ours begin with "its", and name only the field.
        problem = f": {exc}" if str(exc).startswith("its ") else ""
        return f"it does not follow Celery's protocol{problem}"
    return f"it does not follow Celery's protocol ({type(exc).__name__})"
