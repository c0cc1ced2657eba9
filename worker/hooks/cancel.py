"""Handles the cancels that a worker receives.

It stores the cancel, ends the job if it waits in this worker, and closes the job's stream.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify
from typing import Any, Final

from celery import bootsteps
from celery.worker import state
from celery.worker.request import Request

from worker.aio import lifespan
from worker.cancellations import stamps_in, store_revoked
from worker.errors import Deferred
from worker.hooks.backpressure import QueuePauser
from worker.hooks.revoked import of_process as revoked_jobs
from worker.listening import listen
from worker.running_jobs import running_among
from worker.runtime import Runtime

_logger = logging.getLogger(__name__)

_ENDING: Final = (
    "cannot store the cancel of %s: this worker is ending; another worker must store it"
)


class Cancelling(bootsteps.StartStopStep):
    """Listens for cancels and resets on the pool's loop, and acts on the consumer's thread."""

    requires = (QueuePauser,)
    name = "Cancelling"

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._consumer = parent
        parent.cancelling = self
        revoked_jobs.use(getattr(parent.pool, "calls", None), parent.timer)
        self._heard = asyncio.Queue[str]()
        # No task group: it cancels its tasks only once, and redis-py may swallow that cancel.
        for background in (self._listen, self._act):
            lifespan.on_startup(background)

    def cancel(self, ids: Iterable[str]) -> None:
        """Cancel jobs for Celery's `revoke`: store the cancels, and end the jobs that wait here.

        On the consumer's thread.
        """
        cancelled = list(ids)
        state.revoked.update(cancelled)
        try:
            lifespan.submit(self._store_and_wake(cancelled))
        except RuntimeError:
            _logger.warning(_ENDING, ", ".join(cancelled))
        _end_waiting(self._consumer, frozenset(cancelled))

    def cancel_stamped(self, stamps: Mapping[str, Any]) -> None:
        """Store the cancel of all jobs with one of these stamps, and end the deferred ones.

        On the consumer's thread.
        """
        try:
            lifespan.submit(self._store_stamps(stamps))
        except RuntimeError:
            _logger.warning(_ENDING, ", ".join(map(str, stamps)))

    # -- on the pool's loop

    async def _listen(self) -> None:
        """Listen for published resets and cancels, until cancelled."""
        await listen(
            Runtime.current(),
            on_cancelled=self._heard.put_nowait,
            on_reset=self._consumer.queue_pauser.run_held,
        )

    async def _act(self) -> None:
        """Act on the cancels that were heard, until cancelled."""
        while True:
            cancelled = [await self._heard.get()]
            while not self._heard.empty():
                cancelled.append(self._heard.get_nowait())
            await self._store_and_wake(cancelled)

    async def _store_stamps(self, stamps: Mapping[str, Any]) -> None:
        if await _store(stamps_in(stamps)) and (
            ids := await Runtime.current().waiting_with(stamps_in(stamps))
        ):
            await self._store_and_wake(ids)

    async def _store_and_wake(self, ids: list[str]) -> None:
        runtime = Runtime.current()
        new = await _store(ids)
        runtime.end_waiting(frozenset(ids))
        self._consumer.pool.calls.post(self._end_here, frozenset(ids), sorted(new))
        for task_id in new:
            runtime.streams.open(task_id).close_from_outside(
                creates=False,
                status="failed",
                error="TaskRevokedError",
                reason="the job was revoked",
            )
        await runtime.wake_jobs(new)  # each ends in the worker that takes it

    # -- on the consumer's thread

    def _end_here(self, ids: frozenset[str], mine: Sequence[str]) -> None:
        """End cancelled jobs that wait here.

        Args:
            ids: The ids of the jobs.
            mine: The ids of the jobs for which only this worker stores `REVOKED`.
        """
        state.revoked.update(ids)
        if mine:
            _logger.info("cancelled: %s", ", ".join(mine))
            try:
                lifespan.submit(_store_states(self._consumer.app, mine))
            except RuntimeError:
                _logger.warning(_ENDING, ", ".join(mine))
        _end_waiting(self._consumer, ids)


async def _store(ids: Sequence[str]) -> Sequence[str]:
    """Store cancels; return the jobs whose cancel no other worker had stored before."""
    if not ids:
        return ids
    try:
        return await Runtime.current().cancellations.store(ids)
    except Deferred as away:
        _logger.warning(
            "cannot store the cancel of %s (%s); workers that start later do not know of it",
            ", ".join(ids),
            away.reason,
        )
        return ids


async def _store_states(app: Any, ids: Sequence[str]) -> None:
    """Store `REVOKED` for jobs that no worker runs.

    A job whose call is in flight ends with the result of the call.
    """
    try:
        running = await running_among(app, ids)
        waiting = [task_id for task_id in ids if task_id not in running]
        await asyncio.to_thread(store_revoked, app, waiting)
    except Exception as exc:  # noqa: BLE001 - the worker that takes the job stores it
        _logger.warning(
            "cannot store the state of %d cancelled jobs (%s); the workers that take them store it",
            len(ids),
            type(exc).__name__,
        )


def _end_waiting(consumer: Any, ids: frozenset[str]) -> None:
    """Run the cancelled jobs that wait in the timer, so that Celery ends them as revoked."""
    waiting = consumer.timer.schedule._queue  # noqa: SLF001 - kombu cannot take one out otherwise
    entries = [scheduled.entry for scheduled in waiting if _job_of(scheduled.entry) in ids]
    for entry in entries:
        if not entry.canceled:
            entry.cancel()
            entry()
    if entries:
        # A cancelled entry stays in the timer until its instant, with its job and message.
        waiting[:] = [scheduled for scheduled in waiting if not scheduled.entry.canceled]
        heapify(waiting)


def _job_of(entry: Any) -> str | None:
    request = next(iter(entry.args), None)
    return request.id if isinstance(request, Request) else None
