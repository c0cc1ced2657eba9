"""Backpressure: a worker takes no more jobs of a queue than its keys will serve soon.

The others stay in the broker.

A queue is paused while its service's wait list is full (`worker.rotation.waitlist`). Where no key of the
service may be called for long it is paused until one may. Bulk jobs are counted for themselves: a
worker in which many of them wait leaves the queue's other bulk jobs in the broker and still takes
the interactive ones.

Meanwhile the queue is looked through for jobs of a kind that can be served, and flows on where
there are some: those before them are sent back. Where the kind of a job cannot be read in its
message, a few are let through now and then.

With a transport that knows no delayed delivery, deferred jobs wait for their instant in the
worker's timer, and a worker that holds many takes no more either.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from heapq import heapify
from typing import Any, Protocol

from celery import bootsteps
from celery.worker.request import Request
from redis.exceptions import RedisError

from config.celery import DEFERRED, QUEUE_OF
from worker.aio.transport.peeking import QueuePeeker
from worker.jobs.priority import BULK_PRIORITY

_logger = logging.getLogger(__name__)

_TICK_S = 0.1
_LEAST_HELD = 50
_WAKE_S = 2.0  # so long after a reset a deferred job that arrives runs at once
_SILENT_S = 60.0
_LET_THROUGH_S = 5.0
_LOOK_S = 2.0
_LOOK_AGAIN_S = 0.25  # where a line has just become full, or its keys have begun to rest
_MORE_THAT_PASS = 64  # jobs that are only sent back take no time, and those behind them wait


class Demand(Protocol):
    """What waits for a service's keys in this process."""

    on_full: Callable[[], None] | None

    def count(self, *, bulk: bool) -> int:
        """How many jobs wait."""
        ...

    def shortest(self, *, bulk: bool) -> int:
        """How many of them wait in the shortest line that is used."""
        ...

    def capacity(self) -> int:
        """How many may wait in a line: what the keys serve soon."""
        ...

    def resting_s(self) -> float:
        """For how long no job can be served, in seconds; 0 where one can."""
        ...

    def may_block_others(self) -> bool:
        """Whether jobs of one kind may keep others in the queue from their keys."""
        ...

    def note_upcoming(self, kinds: Iterable[tuple[tuple[str, ...], bool]]) -> None:
        """Jobs of these kinds stand in the queue: for these models, bulk or not."""
        ...


_demands: dict[str, Demand] = {}
_wakes: deque[str] = deque()


def watch(service: str, demand: Demand) -> None:
    """Pause the queue of a service by what waits for its keys."""
    _demands[QUEUE_OF[service]] = demand


def wake(service: str) -> None:
    """Run every held job of a service now. May be called from any thread."""
    _wakes.append(QUEUE_OF[service])


class QueuePauser(bootsteps.StartStopStep):
    """Looks, on the consumer's thread, at what waits, and pauses and resumes queues."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    name = "QueuePauser"

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self.paused: dict[str, Any] = {}
        self.paused_for_bulk: set[str] = set()
        self._let_through_s: dict[str, float] = {}
        self._looked_s: dict[str, float] = {}
        self._legible: dict[
            str, bool
        ] = {}  # whether the kind of each job that was seen in a queue could be read
        self._peeker = QueuePeeker()
        self._silent_until_s: dict[tuple[str, str], float] = {}
        self._awake_until: dict[str, float] = {}
        self._entry: Any = None

    def start(self, parent: Any) -> None:
        """Begin to look; after a reconnection every queue is consumed again, so none is paused."""
        self.paused.clear()
        self.paused_for_bulk.clear()
        self._entry = parent.timer.call_repeatedly(_TICK_S, self._tick, (parent,))

    def stop(self, parent: Any) -> None:  # noqa: ARG002 - Celery gives the signature
        """Look no more. A second call does nothing."""
        entry, self._entry = self._entry, None
        if entry is not None:
            entry.cancel()

    def info(self, parent: Any) -> dict[str, Any]:
        """What `inspect stats` shows.

        The queues that are paused, and how many jobs wait for a key or are held.
        """
        waiting = {
            queue: demand.count(bulk=False) + demand.count(bulk=True)
            for queue, demand in _demands.items()
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

    def _tick(self, parent: Any) -> None:
        now_s = time.monotonic()
        while _wakes:
            self._awake_until[_wakes.popleft()] = now_s + _WAKE_S
        for queue, until_s in list(self._awake_until.items()):
            _run_held(parent, queue)
            if until_s < now_s:
                del self._awake_until[queue]
        held = _held_by_queue(parent)
        for queue, demand in list(_demands.items()):
            channel = parent.task_consumer.channel
            if hasattr(channel, "take_at_most"):  # the channel is a new one after each reconnection
                for name in (queue, queue + DEFERRED):
                    channel.take_at_most(name, partial(_more, demand))
            if demand.on_full is None and hasattr(parent.pool, "calls"):
                demand.on_full = partial(parent.pool.calls.post, self._look, parent)
            self._look_through(parent, queue, demand, pause_s=_LOOK_S)
            self._pause_or_resume(parent, queue, demand, held[queue])

    def _look(self, parent: Any) -> None:
        if self._entry is not None:
            held = _held_by_queue(parent)
            for queue, demand in list(_demands.items()):
                self._look_through(parent, queue, demand, pause_s=_LOOK_AGAIN_S)
                self._pause_or_resume(parent, queue, demand, held[queue])

    def _look_through(self, parent: Any, queue: str, demand: Demand, *, pause_s: float) -> None:
        """Find out which kinds of jobs stand in a queue behind those that must wait."""
        now_s = time.monotonic()
        if now_s < self._looked_s.get(queue, 0.0) + pause_s or not demand.may_block_others():
            return
        self._looked_s[queue] = now_s
        try:
            seen = self._peeker.peek(parent.task_consumer.channel, queue)
        except (RedisError, OSError):
            return  # the consumer finds out for itself
        if seen is None:
            return
        kinds = {
            (_resources(parent.app, task, kwargs), priority >= BULK_PRIORITY)
            for priority, task, kwargs in seen
        }
        self._legible[queue] = all(resources is not None for resources, _ in kinds)
        demand.note_upcoming(
            (resources, bulk) for resources, bulk in kinds if resources is not None
        )

    def _pause_or_resume(self, parent: Any, queue: str, demand: Demand, held: int) -> None:
        room = demand.capacity()
        bulk, waiting = demand.shortest(bulk=True), demand.shortest(bulk=False)
        if not hasattr(
            parent.task_consumer.channel, "take_urgent_only"
        ):  # kombu's own takes all of a queue, or nothing
            bulk, waiting = 0, bulk + waiting
        if bulk >= room and queue not in self.paused_for_bulk:
            self._leave_bulk(parent, queue, bulk)
        elif queue in self.paused_for_bulk and bulk <= room // 2:
            self._take_bulk(parent, queue)
        full, empty = waiting >= room, waiting <= room // 2
        resting = demand.resting_s() > 0 and not self._lets_through(queue)
        most_held = max(_LEAST_HELD, parent.pool.limit or 0)
        # Deferred jobs come before the others, and none comes before a key may be called again.
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
            pause=full or resting or held >= most_held,
            resume=empty and not resting and held <= most_held // 2,
            why="no key may be called for a while"
            if resting
            else f"{waiting + held} jobs wait here for a key",
        )

    def _lets_through(self, queue: str) -> bool:
        """Whether it is time to look at a few jobs although all that came lately must wait."""
        now_s = time.monotonic()
        if now_s < self._let_through_s.get(queue, 0.0):
            return False
        self._let_through_s[queue] = now_s + _LET_THROUGH_S
        return queue in self.paused and not self._legible.get(queue, False)

    def _set(self, parent: Any, queue: str, *, pause: bool, resume: bool, why: str) -> None:
        if pause and queue not in self.paused:
            self._pause(parent, queue, why)
        elif resume and queue in self.paused:
            self._resume(parent, queue)

    def _leave_bulk(self, parent: Any, queue: str, waiting: int) -> None:
        self.paused_for_bulk.add(queue)
        for name in (queue, queue + DEFERRED):
            parent.task_consumer.channel.take_urgent_only(name, BULK_PRIORITY)
        _logger.info(
            "⏸️ Queue %s paused for bulk jobs: %d of them wait here for a key", queue, waiting
        )

    def _take_bulk(self, parent: Any, queue: str) -> None:
        self.paused_for_bulk.discard(queue)
        for name in (queue, queue + DEFERRED):
            parent.task_consumer.channel.take_urgent_only(name, None)
        _logger.info("▶️ Queue %s resumed for bulk jobs", queue)

    def _pause(self, parent: Any, queue: str, why: str) -> None:
        consumer = parent.task_consumer
        found = next((one for one in consumer.queues if one.name == queue), None)
        if found is None:  # this worker does not consume it
            return
        self.paused[queue] = found
        consumer.cancel_by_queue(queue)
        self._log(queue, "⏸️ Queue %s paused: %s", queue, why)

    def _resume(self, parent: Any, queue: str) -> None:
        found = self.paused.pop(queue)
        if (
            queue not in parent.app.amqp.queues.consume_from
        ):  # cancelled meanwhile, by a person or for want of keys
            return
        parent.task_consumer.add_queue(found)
        parent.task_consumer.consume()
        self._log(queue, "▶️ Queue %s resumed", queue)

    def _log(self, queue: str, sentence: str, *parts: str) -> None:
        """Where more jobs come than keys serve, queues pause and resume all the time.

        That is told once a minute.
        """
        now_s = time.monotonic()
        loud = (
            not queue.endswith(DEFERRED)
            and self._silent_until_s.get((queue, sentence), 0.0) < now_s
        )
        if loud:
            self._silent_until_s[queue, sentence] = now_s + _SILENT_S
        _logger.log(logging.INFO if loud else logging.DEBUG, sentence, *parts)


def _more(demand: Demand) -> int:
    """How many more jobs of a service may be taken.

    Bulk jobs that wait keep nobody out but their like.
    """
    room, waiting = demand.capacity(), demand.shortest(bulk=False)
    passes = not waiting and demand.may_block_others() and not demand.resting_s()
    return max(room, _MORE_THAT_PASS) if passes else room - waiting


def _resources(app: Any, task: str, kwargs: dict[str, Any]) -> tuple[str, ...] | None:
    """What a job in the queue needs its key for; None: that cannot be read in its message."""
    read = getattr(app.tasks.get(task), "resources_of", None)
    return None if read is None else read(kwargs)


def _held(parent: Any) -> Iterator[tuple[Any, str]]:
    """Every job that waits in the timer for its instant, and the queue that it first came from."""
    for scheduled in list(parent.timer.schedule.queue):
        entry = scheduled.entry
        request = next(iter(entry.args), None)
        if isinstance(request, Request) and not entry.canceled:
            yield entry, str(request.delivery_info.get("routing_key")).removesuffix(DEFERRED)


def _held_by_queue(parent: Any) -> Counter[str]:
    return Counter(queue for _, queue in _held(parent))


def _run_held(parent: Any, queue: str) -> None:
    found = [entry for entry, its_queue in _held(parent) if its_queue == queue]
    for entry in found:
        entry.cancel()
        entry()
    if found:
        # A cancelled entry stays in the timer until its instant, with its job and message.
        waiting = parent.timer.schedule._queue  # noqa: SLF001 - kombu has no other way to take one out
        waiting[:] = [scheduled for scheduled in waiting if not scheduled.entry.canceled]
        heapify(waiting)
