"""Ends the revoked jobs of one pass of the consumer's loop together.

Thousands of jobs may be revoked while they wait in their queue. A worker must take and drop each of
them before it takes the jobs behind them. With two round trips for each, the keys would be idle.
"""

from collections.abc import Iterator
from typing import Any, Final

from celery import states
from celery.exceptions import TaskRevokedError
from celery.worker import state

from worker.aio import reports
from worker.aio.backend import RedisBackend
from worker.aio.chain_ending import is_of_chord, jobs_behind
from worker.aio.consumer_calls import ConsumerCalls
from worker.aio.redis_retry import is_transient, safe_message, warn

_AGAIN_S: Final = 2.0
"""The pause after an error of the result store."""


class RevokedJobs:
    """The revoked jobs whose end is not stored yet; on the consumer's thread only."""

    def __init__(self) -> None:
        self._calls: ConsumerCalls | None = None
        self._timer: Any = None
        self._ending: list[tuple[Any, str]] = []

    def use(self, calls: ConsumerCalls | None, timer: Any) -> None:
        """Set the objects that run calls after a pass of the consumer's loop, and after a pause.

        Args:
            calls: The pool's `ConsumerCalls`; None if the pool has none.
            timer: The consumer's timer.
        """
        self._calls, self._timer = calls, timer

    def end(self, request: Any, reason: str) -> bool:
        """End a revoked job as Celery does. Its result and acknowledgement follow a moment later.

        Returns:
            Whether this was possible. A job of a chord, for instance, must be ended by Celery.
        """
        if (
            self._calls is None
            or not self._calls.is_read_here
            or not request.store_errors
            or request._context.chord  # noqa: SLF001 - no public way
            or any(map(is_of_chord, jobs_behind(request._context.chain)))  # noqa: SLF001 - as above
            or request.task.backend is not request.app.backend
            or not isinstance(request.app.backend, RedisBackend)
        ):
            return False
        state.task_ready(request)
        request.send_event("task-revoked", terminated=False, signum=None, expired=False)
        request._already_revoked = True  # noqa: SLF001 - as Celery does
        self._ending.append((request, reason))
        if len(self._ending) == 1:
            self._calls.post(self._store)
        return True

    def _store(self) -> None:
        ending, self._ending = self._ending, []
        self._finish(ending)

    def _finish(self, ending: list[tuple[Any, str]]) -> None:
        """Store the ends, then acknowledge the messages; try again while the store takes none."""
        try:
            ending[0][0].app.backend.store_ends(
                [
                    (task_id, TaskRevokedError(reason), context)
                    for request, reason in ending
                    for task_id, context in _with_jobs_behind(request)
                ],
                states.REVOKED,
            )
        except Exception as exc:  # noqa: BLE001 - after any error the end is not stored
            self._on_error(exc, ending)
            return
        for request, _ in ending:
            reports.report(request.acknowledge_revoked)

    def _on_error(self, exc: Exception, ending: list[tuple[Any, str]]) -> None:
        if len(ending) > 1 and not is_transient(exc):  # one of the jobs may be its cause
            for message in ending:
                self._finish([message])
            return
        warn("cannot store the ends of revoked jobs (%s); trying again", safe_message(exc))
        # Until then their messages take up room in the prefetch window.
        self._timer.call_after(_AGAIN_S, self._finish, (ending,))


def _with_jobs_behind(request: Any) -> Iterator[tuple[str, Any]]:
    """Yield the ids and contexts of a revoked job, and of the jobs of its chain behind it."""
    context = request._context  # noqa: SLF001 - no public way
    yield request.id, context
    yield from ((behind.id, behind) for behind in jobs_behind(context.chain))


of_process: Final = RevokedJobs()
