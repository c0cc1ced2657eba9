"""Backpressure: a worker takes only as many jobs of a queue as its keys will serve soon.

All other jobs stay in the broker.

A queue is paused while its service's wait list (`worker.rotation.waitlist`) is full, and while
every key of the service rests for a long time. Bulk jobs are counted separately: a worker in which
many bulk jobs wait leaves the queue's other bulk jobs in the broker, and still takes interactive
jobs.

While a queue is paused, the worker reads its first messages, to find jobs that can be served. If it
finds one, it consumes the queue again, and sends back the jobs before it. If a message does not
show what its job needs, the worker takes a few jobs now and then.

If the transport has no delayed delivery, deferred jobs wait for their instant in the worker's
timer. A worker that holds many of them pauses the queue as well.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from functools import partial
from heapq import heapify
from typing import Any

from celery import bootsteps
from celery.worker.request import Request
from redis.exceptions import RedisError

from config.celery import DEFERRED
from config.services import SERVICES
from worker.aio.transport.peeking import QueuePeeker
from worker.jobs.message import BULK_PRIORITY
from worker.jobs.task_service import service_of
from worker.rotation.queue_demand import QueueDemand
from worker.runtime import Runtime

_logger = logging.getLogger(__name__)

_TICK_S = 0.1
_CALM_TICK_S = 0.5
"""The interval while no job waits.

Each look wakes the consumer. Limits on the taken jobs, and a list that becomes full, have effect at
once, without a look.
"""
_MIN_HELD_LIMIT = 50
_RUN_HELD_S = 2.0  # for this long after a reset, deferred jobs that arrive run at once
_LOG_INTERVAL_S = 60.0
_LET_THROUGH_S = 5.0
_PEEK_INTERVAL_S = 2.0
_PEEK_AGAIN_S = 0.25  # right after a wait list has become full, or its keys have begun to rest
_MAX_SENT_BACK = 64  # sending a job back takes almost no time, and lets the jobs behind it run


class QueuePauser(bootsteps.StartStopStep):
    """Pauses and resumes queues, on the consumer's thread, by the number of jobs that wait."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    name = "QueuePauser"

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self.paused: dict[str, Any] = {}
        self.paused_for_bulk: set[str] = set()
        self._let_through_at_s: dict[str, float] = {}
        self._peeked_at_s: dict[str, float] = {}
        self._legible: dict[str, bool] = {}
        """By queue: whether all messages that were read show what their jobs need."""
        self._peeker = QueuePeeker()
        self._silent_until_s: dict[tuple[str, str], float] = {}
        self._reset: deque[str] = deque()
        self._run_held_until_s: dict[str, float] = {}
        self._entry: Any = None
        parent.queue_pauser = self

    def start(self, parent: Any) -> None:
        """Start the timer. After a reconnection no queue is paused: all are consumed again."""
        self.paused.clear()
        self.paused_for_bulk.clear()
        self._entry = parent.timer.call_after(_TICK_S, self._tick, (parent,))

    def stop(self, parent: Any) -> None:  # noqa: ARG002 - Celery gives the signature
        """Stop the timer. A second call does nothing."""
        entry, self._entry = self._entry, None
        if entry is not None:
            entry.cancel()

    def info(self, parent: Any) -> dict[str, Any]:
        """Return the paused queues, and how many jobs wait or are held, for `inspect stats`."""
        waiting = {
            queue: demand.count(bulk=False) + demand.count(bulk=True)
            for queue, demand in _demands_of(parent).items()
        }
        paused = sorted(name for name in self.paused if not name.endswith(DEFERRED))
        return {
            "backpressure": {
                "paused": paused,
                "paused_for_bulk": sorted(self.paused_for_bulk),
                "waiting": waiting,
                "held": dict(_held_by_queue(parent)),
            }
        }

    def run_held(self, service: str) -> None:
        """Run every held job of a service soon, because its keys were reset. From any thread."""
        self._reset.append(SERVICES[service].queue)

    def _tick(self, parent: Any) -> None:
        pause_s = _TICK_S
        try:
            pause_s = self._look(parent)
        finally:
            if self._entry is not None:  # not stopped meanwhile
                self._entry = parent.timer.call_after(pause_s, self._tick, (parent,))

    def _look(self, parent: Any) -> float:
        """Pause and resume queues.

        Returns:
            When to look again, in seconds.
        """
        self._run_held_of_reset(parent)
        held = _held_by_queue(parent)
        demands = _demands_of(parent)
        for queue, demand in demands.items():
            self._connect(parent, queue, demand)
            self._peek(parent, queue, demand, interval_s=_PEEK_INTERVAL_S)
            self._pause_or_resume(parent, queue, demand, held[queue])
        is_busy = held or self.paused or self.paused_for_bulk or self._run_held_until_s
        if not demands or is_busy or any(map(_is_awaited, demands.values())):
            return _TICK_S
        # With other transports, deferred jobs wait in this worker, and the channel has no limits.
        return _CALM_TICK_S if _knows_limits(parent) else _TICK_S

    def _connect(self, parent: Any, queue: str, demand: QueueDemand) -> None:
        """Connect the demand with the channel, which is new after each reconnection."""
        if _knows_limits(parent):
            for name in (queue, queue + DEFERRED):
                parent.task_consumer.channel.take_at_most(name, partial(_more, demand))
        if hasattr(parent.pool, "calls"):
            demand.on_full(partial(parent.pool.calls.post, self._on_full, parent))

    def _run_held_of_reset(self, parent: Any) -> None:
        """Run the held jobs of the services that were reset a moment ago."""
        now_s = time.monotonic()
        while self._reset:
            self._run_held_until_s[self._reset.popleft()] = now_s + _RUN_HELD_S
        for queue, until_s in list(self._run_held_until_s.items()):
            _run_held(parent, queue)
            if until_s < now_s:
                del self._run_held_until_s[queue]

    def _on_full(self, parent: Any) -> None:
        if self._entry is not None:
            held = _held_by_queue(parent)
            for queue, demand in _demands_of(parent).items():
                self._peek(parent, queue, demand, interval_s=_PEEK_AGAIN_S)
                self._pause_or_resume(parent, queue, demand, held[queue])

    def _peek(self, parent: Any, queue: str, demand: QueueDemand, *, interval_s: float) -> None:
        """Find out which kinds of jobs stand in a queue behind the jobs that must wait."""
        now_s = time.monotonic()
        if now_s < self._peeked_at_s.get(queue, 0.0) + interval_s or not demand.may_block_others():
            return
        self._peeked_at_s[queue] = now_s
        try:
            messages = self._peeker.peek(parent.task_consumer.channel, queue)
        except (RedisError, OSError):
            return  # the consumer meets the same error, and reconnects
        if messages is None:
            return
        kinds = {
            (
                _service(parent.app, task),
                _resources(parent.app, task, kwargs),
                priority >= BULK_PRIORITY,
            )
            for priority, task, kwargs in messages
        }
        self._legible[queue] = all(resources is not None for _, resources, _ in kinds)
        demand.note_upcoming(kinds)

    def _pause_or_resume(self, parent: Any, queue: str, demand: QueueDemand, held: int) -> None:
        capacity = demand.capacity()
        bulk, waiting = demand.shortest(bulk=True), demand.shortest(bulk=False)
        if not hasattr(parent.task_consumer.channel, "take_urgent_only"):
            # kombu's own transport takes all jobs of a queue, or none.
            bulk, waiting = 0, bulk + waiting
        self._pause_or_resume_bulk(parent, queue, bulk, capacity)
        full, empty = waiting >= capacity, waiting <= capacity // 2
        resting = demand.resting_s() > 0 and not self._lets_through(queue)
        held_limit = max(_MIN_HELD_LIMIT, parent.pool.limit or 0)
        # Deferred jobs run before the others, and come back only when a key may be called again.
        self._set(
            parent,
            queue + DEFERRED,
            pause=full,
            resume=empty,
            why=f"{waiting} jobs wait here for a key",
        )
        self._set(
            parent,
            queue,
            pause=full or resting or held >= held_limit,
            resume=empty and not resting and held <= held_limit // 2,
            why="no key may be called for a while"
            if resting
            else f"{waiting + held} jobs wait here for a key",
        )

    def _pause_or_resume_bulk(self, parent: Any, queue: str, waiting: int, capacity: int) -> None:
        if waiting >= capacity and queue not in self.paused_for_bulk:
            self._pause_bulk(parent, queue, waiting)
        elif waiting <= capacity // 2 and queue in self.paused_for_bulk:
            self._resume_bulk(parent, queue)

    def _lets_through(self, queue: str) -> bool:
        """Whether to take a few jobs now although all jobs that were read lately must wait."""
        now_s = time.monotonic()
        if now_s < self._let_through_at_s.get(queue, 0.0):
            return False
        self._let_through_at_s[queue] = now_s + _LET_THROUGH_S
        return queue in self.paused and not self._legible.get(queue, False)

    def _set(self, parent: Any, queue: str, *, pause: bool, resume: bool, why: str) -> None:
        if pause and queue not in self.paused:
            self._pause(parent, queue, why)
        elif resume and queue in self.paused:
            self._resume(parent, queue)

    def _pause_bulk(self, parent: Any, queue: str, waiting: int) -> None:
        self.paused_for_bulk.add(queue)
        for name in (queue, queue + DEFERRED):
            parent.task_consumer.channel.take_urgent_only(name, BULK_PRIORITY)
        _logger.info(
            "⏸️ Queue %s paused for bulk jobs: %d of them wait here for a key", queue, waiting
        )

    def _resume_bulk(self, parent: Any, queue: str) -> None:
        self.paused_for_bulk.discard(queue)
        for name in (queue, queue + DEFERRED):
            parent.task_consumer.channel.take_urgent_only(name, None)
        _logger.info("▶️ Queue %s resumed for bulk jobs", queue)

    def _pause(self, parent: Any, queue: str, why: str) -> None:
        consumer = parent.task_consumer
        found = next((consumed for consumed in consumer.queues if consumed.name == queue), None)
        if found is None:  # this worker does not consume it
            return
        self.paused[queue] = found
        consumer.cancel_by_queue(queue)
        self._log(queue, "⏸️ Queue %s paused: %s", queue, why)

    def _resume(self, parent: Any, queue: str) -> None:
        paused = self.paused.pop(queue)
        if queue not in parent.app.amqp.queues.consume_from:
            # An operator has cancelled the queue meanwhile, or its service has lost its last key.
            return
        parent.task_consumer.add_queue(paused)
        parent.task_consumer.consume()
        self._log(queue, "▶️ Queue %s resumed", queue)

    def _log(self, queue: str, sentence: str, *parts: str) -> None:
        """Log each sentence at most once a minute: under load, queues pause and resume often."""
        now_s = time.monotonic()
        loud = (
            not queue.endswith(DEFERRED)
            and self._silent_until_s.get((queue, sentence), 0.0) < now_s
        )
        if loud:
            self._silent_until_s[queue, sentence] = now_s + _LOG_INTERVAL_S
        _logger.log(logging.INFO if loud else logging.DEBUG, sentence, *parts)


def _demands_of(parent: Any) -> Mapping[str, QueueDemand]:
    """Return the demand of each queue; empty until the pool's loop has a runtime."""
    loop = getattr(parent.pool, "loop", None)
    runtime = Runtime.of(loop) if loop is not None else None
    return {} if runtime is None else runtime.demands


def _is_awaited(demand: QueueDemand) -> bool:
    """Whether jobs wait for keys, or the keys rest."""
    return bool(demand.count(bulk=False) or demand.count(bulk=True) or demand.resting_s())


def _knows_limits(parent: Any) -> bool:
    return hasattr(parent.task_consumer.channel, "take_at_most")


def _more(demand: QueueDemand) -> int:
    """Return how many more jobs of a queue may be taken.

    Bulk jobs that wait keep only other bulk jobs in the broker.
    """
    capacity, waiting = demand.capacity(), demand.shortest(bulk=False)
    passes = not waiting and demand.may_block_others() and not demand.resting_s()
    return max(capacity, _MAX_SENT_BACK) if passes else capacity - waiting


def _service(app: Any, task: str) -> str:
    """Return the service of a job in the queue; empty if this worker knows none for its task."""
    service = service_of(task, app)
    return service.name if service else ""


def _resources(app: Any, task: str, kwargs: dict[str, Any]) -> tuple[str, ...] | None:
    """Return what a job in the queue needs its key for; None if its message does not show this."""
    resources_of = getattr(app.tasks.get(task), "resources_of", None)
    return None if resources_of is None else resources_of(kwargs)


def _held(parent: Any) -> Iterator[tuple[Any, str]]:
    """Yield every deferred job that waits in the timer for its instant, and the job's queue.

    Jobs with an `eta` from their producer also wait in the timer, but not for a key. They are left
    out: no reset makes them due, and the jobs behind them need not wait.
    """
    for scheduled in list(parent.timer.schedule.queue):
        entry = scheduled.entry
        request = next(iter(entry.args), None)
        if isinstance(request, Request) and not entry.canceled:
            came_by = str(request.delivery_info.get("routing_key"))
            if came_by.endswith(DEFERRED):
                yield entry, came_by.removesuffix(DEFERRED)


def _held_by_queue(parent: Any) -> Counter[str]:
    return Counter(queue for _, queue in _held(parent))


def _run_held(parent: Any, queue: str) -> None:
    entries = [entry for entry, its_queue in _held(parent) if its_queue == queue]
    for entry in entries:
        entry.cancel()
        entry()
    if entries:
        # A cancelled entry stays in the timer until its instant, with its job and message.
        waiting = parent.timer.schedule._queue  # noqa: SLF001 - kombu cannot take one out otherwise
        waiting[:] = [scheduled for scheduled in waiting if not scheduled.entry.canceled]
        heapify(waiting)
