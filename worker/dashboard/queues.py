"""What waits in the broker and in the workers. Everything here blocks on the network: call it from a thread."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from celery import Celery

from config.celery import DEFERRED, DELAYED_QUEUES
from worker.dashboard.board import QueueView
from worker.dashboard.deferred_age import DeferredAge
from worker.dashboard.queue_age import QueueAge

_ASK_WORKERS_EVERY_S = 2.0
_REPLY_TIMEOUT_S = 1.0


@dataclass
class QueueWatch:
    """Looks at queues again and again, and remembers what it needs to tell how long their jobs have waited.

    Args:
        app: The Celery app, for its broker.
        queues: The names of the queues.
    """

    app: Celery
    queues: tuple[str, ...]
    _ages: dict[str, QueueAge] = field(default_factory=lambda: defaultdict(QueueAge))
    _deferred: dict[str, DeferredAge] = field(default_factory=lambda: defaultdict(DeferredAge))
    _workers: list[dict[str, Any]] = field(default_factory=list)
    _asked_at: float | None = None

    def look(self) -> dict[str, QueueView]:
        """Every queue now.

        Raises:
            redis.exceptions.RedisError: The broker cannot be reached.
        """
        now = time.monotonic()
        with self.app.connection_for_read() as connection:
            channel = connection.channel()  # unlike `default_channel` it gives up where the broker is gone
            ready = {name: self._waiting(channel, name, now) for name in self.queues}
            deferred = {name: self._waiting(channel, name + DEFERRED, now) for name in self.queues}
            if self._asked_at is None or now - self._asked_at >= _ASK_WORKERS_EVERY_S:
                self._asked_at = now
                self._workers = self._ask_workers(connection, channel)
        paused = Counter(name for worker in self._workers for name in worker.get("paused", ()))
        held: Counter[str] = Counter()
        for worker in self._workers:
            held.update(worker.get("waiting", {}))
            held.update(worker.get("held", {}))
        return {
            name: QueueView(
                name,
                ready=ready[name][0],
                deferred=deferred[name][0],
                held=held[name],
                paused_workers=paused[name],
                workers=len(self._workers),
                oldest_s=max(ready[name][1], deferred[name][1]),
            )
            for name in self.queues
        }

    def _ask_workers(self, connection: Any, channel: Any) -> list[dict[str, Any]]:
        replies: Iterable[dict[str, Any]] = (
            self.app.control.broadcast(
                "stats", reply=True, timeout=_REPLY_TIMEOUT_S, connection=connection, channel=channel
            )
            or ()
        )
        return [stats["backpressure"] for reply in replies for stats in reply.values() if "backpressure" in stats]

    def _waiting(self, channel: Any, name: str, now: float) -> tuple[int, float]:
        """How many messages of all priorities a queue holds, and for how long the oldest has waited, in seconds."""
        lists = [channel._q_for_pri(name, priority) for priority in channel.priority_steps]  # noqa: SLF001 - kombu's only way
        oldest_s = max(self._ages[one].look(channel.client, one, now) for one in lists)
        if name in DELAYED_QUEUES:
            oldest_s = max(oldest_s, self._deferred[name].look(channel.client, name))
        return channel._size(name), oldest_s  # noqa: SLF001 - the same
