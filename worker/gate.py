"""The gate: a worker that already holds many deferred jobs of a queue fetches no more of it.

Deferred jobs come back through a queue of their own (`ai.deferred`), which is always consumed, and wait in the worker's
timer for their instant. While a pool is exhausted, the gate keeps the other jobs in the broker, where they cost nothing
and cannot crowd out other queues; it opens by itself as the held jobs run, and a reset runs those at once.

Bulk jobs are counted for themselves: a worker that holds many of them leaves the queue's other bulk jobs in the broker
and still takes the interactive ones.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Iterator
from heapq import heapify
from typing import Any

from celery import bootsteps
from celery.worker.request import Request

from config.celery import DEFERRED, QUEUE_OF
from worker.priority import BULK_PRIORITY, is_bulk

_logger = logging.getLogger(__name__)

_TICK_S = 0.25
_LEAST_HELD = 50
_WAKE_S = 2.0  # so long after a reset a deferred job that arrives runs at once

_wakes: deque[str] = deque()


def wake(service: str) -> None:
    """Run every held job of a service now. May be called from any thread."""
    _wakes.append(QUEUE_OF[service])


class Gate(bootsteps.StartStopStep):
    """Watches, on the consumer's thread, how many deferred jobs are held, and pauses and resumes queues."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    name = "Gate"

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self.closed: dict[str, Any] = {}
        self.closed_to_bulk: set[str] = set()
        self._awake_until: dict[str, float] = {}
        self._entry: Any = None

    def start(self, parent: Any) -> None:
        """Begin to watch; after a reconnection every queue is consumed again, so every gate is open."""
        self.closed.clear()
        self.closed_to_bulk.clear()
        self._entry = parent.timer.call_repeatedly(_TICK_S, self._tick, (parent,))

    def stop(self, parent: Any) -> None:  # noqa: ARG002 - Celery gives the signature
        """Stop watching. A second call does nothing."""
        entry, self._entry = self._entry, None
        if entry is not None:
            entry.cancel()

    def info(self, parent: Any) -> dict[str, Any]:
        """What `inspect stats` shows: the queues whose gate is closed, and how many deferred jobs are held."""
        held, bulk = _count(parent)
        closed = {"closed": sorted(self.closed), "closed_to_bulk": sorted(self.closed_to_bulk)}
        return {"gate": closed | {"held": dict(held + bulk), "held_bulk": dict(bulk)}}

    def _tick(self, parent: Any) -> None:
        now = time.monotonic()
        while _wakes:
            self._awake_until[_wakes.popleft()] = now + _WAKE_S
        for queue, until in list(self._awake_until.items()):
            _run_held(parent, queue)
            if until < now:
                del self._awake_until[queue]
        held, bulk = _count(parent)
        high = max(_LEAST_HELD, parent.pool.limit or 0)
        if not hasattr(
            parent.task_consumer.channel, "take_urgent_only"
        ):  # kombu's own takes all of a queue, or nothing
            held, bulk = held + bulk, Counter()
        for queue in QUEUE_OF.values():
            if bulk[queue] >= high and queue not in self.closed_to_bulk:
                self._leave_bulk(parent, queue, bulk[queue])
            elif queue in self.closed_to_bulk and bulk[queue] <= high // 2:
                self._take_bulk(parent, queue)
            if held[queue] >= high and queue not in self.closed:
                self._close(parent, queue, held[queue])
            elif queue in self.closed and held[queue] <= high // 2:
                self._open(parent, queue)

    def _leave_bulk(self, parent: Any, queue: str, held: int) -> None:
        self.closed_to_bulk.add(queue)
        parent.task_consumer.channel.take_urgent_only(queue, BULK_PRIORITY)
        _logger.info("⏸️ Queue %s paused for bulk: %d deferred bulk jobs wait here for a key", queue, held)

    def _take_bulk(self, parent: Any, queue: str) -> None:
        self.closed_to_bulk.discard(queue)
        parent.task_consumer.channel.take_urgent_only(queue, None)
        _logger.info("▶️ Queue %s resumed for bulk", queue)

    def _close(self, parent: Any, queue: str, held: int) -> None:
        consumer = parent.task_consumer
        found = next((one for one in consumer.queues if one.name == queue), None)
        if found is None:  # this worker does not consume it
            return
        self.closed[queue] = found
        consumer.cancel_by_queue(queue)
        _logger.info("⏸️ Queue %s paused: %d deferred jobs wait here for a key", queue, held)

    def _open(self, parent: Any, queue: str) -> None:
        found = self.closed.pop(queue)
        if queue not in parent.app.amqp.queues.consume_from:  # cancelled meanwhile, by a person or for want of keys
            return
        parent.task_consumer.add_queue(found)
        parent.task_consumer.consume()
        _logger.info("▶️ Queue %s resumed", queue)


def _held(parent: Any) -> Iterator[tuple[Any, str, bool]]:
    """Every job that waits in the timer for its instant, the queue that it first came from, and whether it is bulk."""
    for scheduled in list(parent.timer.schedule.queue):
        entry = scheduled.entry
        request = next(iter(entry.args), None)
        if isinstance(request, Request) and not entry.canceled:
            queue = str(request.delivery_info.get("routing_key")).removesuffix(DEFERRED)
            yield entry, queue, is_bulk(request.delivery_info)


def _count(parent: Any) -> tuple[Counter[str], Counter[str]]:
    """How many jobs of each queue are held: interactive ones, bulk ones."""
    counts: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    for _, queue, bulk in _held(parent):
        counts[bulk][queue] += 1
    return counts


def _run_held(parent: Any, queue: str) -> None:
    found = [entry for entry, its_queue, _ in _held(parent) if its_queue == queue]
    for entry in found:
        entry.cancel()
        entry()
    if found:
        # A cancelled entry stays in the timer until its instant, with its job and message.
        waiting = parent.timer.schedule._queue  # noqa: SLF001 - kombu has no other way to take one out
        waiting[:] = [scheduled for scheduled in waiting if not scheduled.entry.canceled]
        heapify(waiting)
