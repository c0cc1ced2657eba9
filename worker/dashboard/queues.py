"""Counts the jobs that wait in the broker and in the workers.

Everything here blocks on the network: call it from a thread.
"""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from amqp.exceptions import NotFound
from celery import Celery

from config.celery import DEFERRED, DELAYED_QUEUES
from worker.aio.transport import delayed
from worker.dashboard.deferred_age import DeferredAge
from worker.dashboard.deferred_jobs import DeferredJob, deferred_jobs
from worker.dashboard.queue_age import QueueAge
from worker.dashboard.state import QueueView
from worker.jobs.message import BULK_PRIORITY

_POLL_WORKERS_INTERVAL_S = 2.0
_REPLY_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class _Stock:
    """The jobs of one queue that the broker holds, deferred jobs included."""

    ready: int
    deferred: int
    oldest_s: float = 0.0
    oldest_bulk_s: float = 0.0
    deferred_jobs: tuple[DeferredJob, ...] = ()


@dataclass
class QueueWatch:
    """Polls queues, and remembers samples that show how long their jobs have waited.

    Args:
        app: The Celery app, for its broker.
        queues: The names of the queues.
    """

    app: Celery
    queues: tuple[str, ...]
    _ages: dict[str, QueueAge] = field(default_factory=lambda: defaultdict(QueueAge))
    _deferred: dict[str, DeferredAge] = field(default_factory=lambda: defaultdict(DeferredAge))
    _workers: list[dict[str, Any]] = field(default_factory=list)
    _workers_polled_at: float = -math.inf

    def poll(self) -> dict[str, QueueView]:
        """Return the state of every queue now.

        Raises:
            redis.exceptions.RedisError: The broker cannot be reached.
        """
        now = time.monotonic()
        with self.app.connection_for_read() as connection:
            # Unlike `default_channel`, this gives up at once if the broker is not reachable.
            connection.ensure_connection(
                max_retries=1, interval_start=0, reraise_as_library_errors=False
            )
            channel = connection.channel()
            if connection.transport.driver_type == "amqp":
                # RabbitMQ shows neither the messages of a queue nor the delayed ones.
                stocks = {name: _stock_in_rabbitmq(connection, name) for name in self.queues}
            else:
                stocks = {name: self._stock_in_redis(channel, name, now) for name in self.queues}
            if now - self._workers_polled_at >= _POLL_WORKERS_INTERVAL_S:
                self._workers_polled_at = now
                self._workers = self._poll_workers(connection, channel)
        paused: Counter[str] = Counter()
        held: Counter[str] = Counter()
        for worker in self._workers:
            paused.update(worker.get("paused", ()))
            held.update(worker.get("waiting", {}))
            held.update(worker.get("held", {}))
        skew_s = max(
            (abs(worker.get("clock_skew_s", 0.0)) for worker in self._workers), default=0.0
        )
        return {
            name: QueueView(
                name,
                ready=stock.ready,
                deferred=stock.deferred,
                held=held[name],
                paused_workers=paused[name],
                workers=len(self._workers),
                clock_skew_s=skew_s,
                oldest_s=stock.oldest_s,
                oldest_bulk_s=stock.oldest_bulk_s,
                deferred_jobs=stock.deferred_jobs,
            )
            for name, stock in stocks.items()
        }

    def _poll_workers(self, connection: Any, channel: Any) -> list[dict[str, Any]]:
        replies: Iterable[dict[str, Any]] = (
            self.app.control.broadcast(
                "stats",
                reply=True,
                timeout=_REPLY_TIMEOUT_S,
                connection=connection,
                channel=channel,
            )
            or ()
        )
        return [
            stats["backpressure"] | {"clock_skew_s": stats.get("clock_skew_s", 0.0)}
            for reply in replies
            for stats in reply.values()
            if "backpressure" in stats
        ]

    def _stock_in_redis(self, channel: Any, name: str, now: float) -> _Stock:
        # kombu has no other way to count the messages of all priorities.
        ready, deferred = channel._size(name), channel._size(name + DEFERRED)  # noqa: SLF001
        oldest_s, oldest_bulk_s = self._oldest_s(channel, name, now)
        jobs = self._deferred_jobs(channel, name + DEFERRED)
        return _Stock(ready, deferred, oldest_s, oldest_bulk_s, jobs)

    def _deferred_jobs(self, channel: Any, queue: str) -> tuple[DeferredJob, ...]:
        list_of = channel._q_for_pri  # noqa: SLF001 - as above
        lists = [list_of(queue, priority) for priority in channel.priority_steps]
        return deferred_jobs(self.app, channel.client, lists)

    def _oldest_s(self, channel: Any, name: str, now: float) -> tuple[float, float]:
        """Measure how long the oldest interactive and the oldest bulk job of a queue have waited.

        Returns:
            Two lower bounds, in seconds.
        """
        oldest_s = {False: 0.0, True: 0.0}
        for queue in (name, name + DEFERRED):
            for priority in channel.priority_steps:
                key = channel._q_for_pri(queue, priority)  # noqa: SLF001 - as above
                age_s = self._ages[key].measure(channel.client, key, now)
                if queue in DELAYED_QUEUES:
                    due, texts = delayed.due_of(key), delayed.texts_of(queue)
                    age_s = max(age_s, self._deferred[key].measure(channel.client, due, texts))
                is_bulk = priority >= BULK_PRIORITY
                oldest_s[is_bulk] = max(oldest_s[is_bulk], age_s)
        return oldest_s[False], oldest_s[True]


def _stock_in_rabbitmq(connection: Any, queue: str) -> _Stock:
    return _Stock(_ready_in(connection, queue), _ready_in(connection, queue + DEFERRED))


def _ready_in(connection: Any, queue: str) -> int:
    """Count the messages of a RabbitMQ queue that no worker has; 0 if the queue does not exist."""
    with connection.channel() as channel:  # an error closes this channel, so each count has its own
        try:
            return int(channel.queue_declare(queue, passive=True).message_count)
        except NotFound:
            return 0
