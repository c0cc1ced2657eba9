"""What a worker does where it hears of a cancel.

It keeps it, ends the job if it holds it, and tells the readers.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify
from typing import Any

from celery import bootsteps
from celery.worker import state
from celery.worker.request import Request

from worker.aio import lifespan
from worker.cancellations import running_among, stamps_in, store_revoked
from worker.errors import Deferred
from worker.runtime import Runtime

_logger = logging.getLogger(__name__)

_TICK_S = 0.25

_heard: deque[tuple[str, bool]] = deque()
"""Jobs that were cancelled, and whether this worker is the one to store that; see `hear`."""


@lifespan.on_startup
async def listen() -> None:
    """Hear of resets and of cancels that were published, and keep the pools' clocks.

    Runs until it is cancelled.
    """
    ids: asyncio.Queue[str] = asyncio.Queue()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(Runtime.current().listen(ids.put_nowait))
        tasks.create_task(Runtime.current().keep_clocks())
        while True:
            found = [await ids.get()]
            while not ids.empty():
                found.append(ids.get_nowait())
            await _keep(found)


def hear(consumer: Any, ids: Iterable[str]) -> None:
    """Keep the cancels that came by Celery's `revoke`, and end the jobs that wait here.

    On the consumer's thread.
    """
    found = list(ids)
    state.revoked.update(found)
    try:
        lifespan.submit(_keep(found))
    except RuntimeError:
        _logger.warning("the pool is gone, so the cancel of %s is not kept", ", ".join(found))
    _end_waiting(consumer, set(found))


def hear_stamps(stamps: Mapping[str, Any]) -> None:
    """Keep the cancel of all jobs with one of these stamps, and end those that wait in the broker for their instant."""
    try:
        lifespan.submit(_keep_stamps(stamps))
    except RuntimeError:
        _logger.warning(
            "the pool is gone, so the cancel of %s is not kept", ", ".join(map(str, stamps))
        )


async def _keep_stamps(stamps: Mapping[str, Any]) -> None:
    if await _write_down(stamps_in(stamps)) and (
        found := await Runtime.current().waiting_with(stamps_in(stamps))
    ):
        await _keep(found)


async def _write_down(ids: Sequence[str]) -> Sequence[str]:
    """Keep cancels, and give those of which no other worker has heard before."""
    if not ids:
        return ids
    try:
        return await Runtime.current().cancellations.write_down(ids)
    except Deferred as away:
        _logger.warning("a cancel could not be kept (%s): %s", away.reason, ", ".join(ids))
        return ids


async def _keep(ids: list[str]) -> None:
    runtime = Runtime.current()
    first = await _write_down(ids)
    for rotation in runtime.rotations.values():
        rotation.waiting.cancel(frozenset(ids))
    runtime.email_sender.cancel(frozenset(ids))
    _heard.extend((task_id, task_id in first) for task_id in ids)
    for task_id in first:
        runtime.streams.open(task_id).end_from_outside(
            begins=False, status="failed", error="TaskRevokedError", reason="the job was revoked"
        )
    await runtime.wake_jobs(first)  # whoever takes them ends them


class Cancelling(bootsteps.StartStopStep):
    """Ends jobs that wait in this worker, on the consumer's thread, once their cancel was heard."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    name = "Cancelling"

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._entry: Any = None

    def start(self, parent: Any) -> None:
        """Begin to look."""
        self._entry = parent.timer.call_repeatedly(_TICK_S, self._tick, (parent,))

    def stop(self, parent: Any) -> None:  # noqa: ARG002 - Celery gives the signature
        """Look no more. A second call does nothing."""
        entry, self._entry = self._entry, None
        if entry is not None:
            entry.cancel()

    def _tick(self, parent: Any) -> None:
        if not _heard:
            return
        found = [_heard.popleft() for _ in range(len(_heard))]
        ids = {task_id for task_id, _ in found}
        state.revoked.update(ids)
        if mine := {task_id for task_id, mine in found if mine}:
            _logger.info("cancelled: %s", ", ".join(sorted(mine)))
            threading.Thread(
                target=_store, args=(parent.app, sorted(mine)), daemon=True, name="cancels"
            ).start()
        _end_waiting(parent, ids)


def _store(app: Any, ids: list[str]) -> None:
    """Store `REVOKED` for jobs that no worker runs.

    One that is called for now ends with its result.
    """
    try:
        running = running_among(app, ids)
        store_revoked(app, [task_id for task_id in ids if task_id not in running])
    except Exception as exc:  # noqa: BLE001 - the broker's or the store's: the state follows when a worker takes the job
        _logger.warning(
            "the state of %d cancelled jobs could not be stored (%s)", len(ids), type(exc).__name__
        )


def _end_waiting(consumer: Any, ids: set[str]) -> None:
    """Run the jobs that wait in the timer for their instant.

    Celery sees that they are revoked, and ends them.
    """
    waiting = consumer.timer.schedule._queue  # noqa: SLF001 - kombu has no other way to take one out
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
