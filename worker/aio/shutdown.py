"""Waits for jobs while the worker ends, and does the hub's work, because the hub no longer runs."""

import asyncio
import logging
import threading
import time
from typing import Any, Protocol

from celery.worker import state
from kombu.message import Message

from worker.aio import hung_redis, lifespan
from worker.aio.consumer_calls import ConsumerCalls
from worker.aio.transport import unacked

logger = logging.getLogger(__name__)

_STEP_S = 0.5
_OVERRUN_S = 3.0
"""How long jobs whose end is decided may still run, in seconds."""
_HUNG_CLEANUPS_S = 2.0
"""How long the cleanups may take while Redis hangs, in seconds."""
_UNLIMITED_S = 300.0
"""How long jobs without a time limit may still run while Redis hangs, in seconds."""
_ACKNOWLEDGING = ("ack_log_error", "reject_log_error")

hung_redis.watch_ends()


class Running(Protocol):
    """The pool that ends, with the parts that this module uses."""

    calls: ConsumerCalls
    options: dict[str, Any]

    @property
    def running(self) -> int:
        """How many jobs run."""

    @property
    def unsettled(self) -> int:
        """How many of the running jobs have no decided end yet."""

    def drain(self) -> None:
        """Start no further job."""

    def cancel_all(self) -> None:
        """Cancel all running jobs."""


def wait_for_jobs(pool: Running, hub: Any, *, cold: bool, cold_patience_s: float) -> None:
    """Wait until no job runs; meanwhile do the hub's work: callbacks, acknowledgements, timers.

    The wait for jobs whose end is decided takes a few seconds at most, because such a job may
    suppress each cancellation. While Redis hangs, the whole wait takes at most as long as a job may
    run, because results cannot be stored.

    Args:
        pool: The pool, which starts no further job.
        hub: The hub, if there is one.
        cold: Whether to cancel the jobs first. A signal for a cold shutdown that comes meanwhile
            has the same effect.
        cold_patience_s: How long to wait for cancelled jobs, in seconds, because a job may hang.
    """
    hung_redis.of_process.begin()  # a shutdown by remote control sends no `worker_shutting_down`
    grace = _GracePeriod(pool, cold=cold, cold_patience_s=cold_patience_s)
    next_timers_s = 0.0
    while pool.running:
        if excess := grace.spent():
            logger.warning("%d jobs %s; the worker ends without them", pool.running, excess)
            break
        pool.calls.wait(0.1 if grace.is_cold else _STEP_S)
        send_acknowledgements(hub, is_again=True)
        if hub is not None and time.monotonic() >= next_timers_s:
            next_timers_s = time.monotonic() + _STEP_S
            _fire_timers(hub)
    pool.calls.drain()
    send_acknowledgements(hub)


class _GracePeriod:
    """The time for which an ending worker waits for its jobs; for arguments see `wait_for_jobs`."""

    def __init__(self, pool: Running, *, cold: bool, cold_patience_s: float) -> None:
        self._pool = pool
        self._begins_cold = cold
        self._cold_patience_s = cold_patience_s
        self._deadline_s: float | None = None
        self._settled_s: float | None = None
        longest_s = float(pool.options.get("timeout") or _UNLIMITED_S)
        self._hung_deadline_s = time.monotonic() + longest_s

    @property
    def is_cold(self) -> bool:
        """Whether the jobs were cancelled."""
        return self._deadline_s is not None

    def spent(self) -> str:
        """Return why the worker stops waiting for its jobs, or an empty text while it waits.

        If the shutdown is cold or has become cold, or Redis hangs for too long, this cancels all
        jobs.
        """
        if not self.is_cold and (self._begins_cold or state.should_terminate not in (None, False)):
            self._deadline_s = time.monotonic() + self._cold_patience_s
            self._pool.cancel_all()
        now_s = time.monotonic()
        if self._deadline_s is not None:
            return "did not end when they were cancelled" if now_s > self._deadline_s else ""
        if hung_redis.of_process.silent and now_s > self._hung_deadline_s:
            self._pool.cancel_all()
            return "cannot report their ends, because Redis does not answer"
        self._settled_s = None if self._pool.unsettled else self._settled_s or now_s
        if self._settled_s is None or now_s <= self._settled_s + _OVERRUN_S:
            return ""
        return "that timed out or were terminated still run"


def wait_softly(pool: Running, worker: Any) -> None:
    """Wait like `WorkController.wait_for_soft_shutdown`, but handle the ends of jobs meanwhile.

    Celery's method sleeps on the consumer's thread, so jobs that end in that time still look
    active, and go back to their queue although they have succeeded. This function also returns as
    soon as no job runs.
    """
    conf = worker.app.conf
    timeout_s = float(conf.worker_soft_shutdown_timeout)
    _replace_locks(worker)
    pool.calls.drain()
    # This is needed even without a wait. Otherwise waiting jobs would take the slots of jobs that
    # are cancelled next.
    pool.drain()
    hung_redis.of_process.begin(cold=True)  # Celery's signal comes after this handler
    idle_too = bool(conf.worker_enable_soft_shutdown_on_idle)
    if timeout_s <= 0 or not (idle_too or state.active_requests):
        return
    logger.warning("Initiating Soft Shutdown, terminating in %s seconds", timeout_s)
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s and (pool.running or idle_too):
        pool.calls.wait(0.1)


def _replace_locks(worker: Any) -> None:
    """Let this thread send events and acknowledgements, whatever the signal has interrupted.

    The locks of Celery's event dispatcher and of kombu's hub are not reentrant. If the signal came
    while this thread held one of them, the handler would wait for its own thread for ever. The
    interrupted call still releases the lock that it holds.
    """
    consumer = getattr(worker, "consumer", None)
    if (dispatcher := getattr(consumer, "event_dispatcher", None)) is not None:
        dispatcher.mutex = threading.Lock()
    if (hub := getattr(consumer, "hub", None)) is not None:
        hub._ready_lock = threading.Lock()  # noqa: SLF001 - kombu has no public way


def end_lifespan(loop: asyncio.AbstractEventLoop, *, patience_s: float) -> None:
    """End the lifespan on the loop, and wait for at most `patience_s` seconds.

    While Redis hangs, this waits for at most two seconds, because most cleanups need Redis.
    """
    if hung_redis.of_process.silent:
        patience_s = min(patience_s, _HUNG_CLEANUPS_S)
    try:
        asyncio.run_coroutine_threadsafe(lifespan.end(patience_s=patience_s), loop).result(
            patience_s
        )
    except TimeoutError:
        logger.warning("the cleanups did not end in %g s; the worker ends without them", patience_s)
    except Exception:
        logger.exception("the cleanups failed; the worker ends anyway")


def send_acknowledgements(hub: Any, *, is_again: bool = False) -> None:
    """Run and send the acknowledgements that wait in a hub that no longer runs.

    Other callbacks do not run, because one of them may be the transport's reader, which would
    deliver messages to a closed pool.

    Args:
        hub: The hub, if there is one.
        is_again: Whether this will be called again soon. If so, a Redis that hangs is not tried.
    """
    if hub is None:
        return
    for callback in list(hub._pop_ready()):  # noqa: SLF001 - prefork does the same
        function = getattr(callback, "fun", None)
        name = getattr(function, "__name__", "")
        if name in _ACKNOWLEDGING and isinstance(getattr(function, "__self__", None), Message):
            try:
                callback()
            except Exception:
                logger.exception("cannot acknowledge a message; the broker delivers it again")
        else:
            hub.call_soon(callback)
    if not (is_again and hung_redis.of_process.silent):
        unacked.of_process.flush_acks()


def _fire_timers(hub: Any) -> None:
    try:
        hub.fire_timers()
    except Exception:
        logger.exception("a timer failed; the shutdown goes on")
