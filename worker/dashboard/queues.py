"""What waits in the broker and in the workers. Everything here blocks on the network: call it from a thread."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from celery import Celery

from config.celery import DEFERRED
from worker.dashboard.board import QueueView

_ASK_WORKERS_EVERY_S = 4.0
_REPLY_TIMEOUT_S = 1.0
_LARGEST_MARKER_BYTES = 65_536


@dataclass
class QueueWatch:
    """Looks at queues again and again, and remembers what it needs to tell how old a queue is.

    Messages carry no time of their own. So the newest message of a queue is remembered, and as long as it is still
    there, everything before it has waited at least that long.

    Args:
        app: The Celery app, for its broker.
        queues: The names of the queues.
    """

    app: Celery
    queues: tuple[str, ...]
    _markers: dict[str, tuple[Any, float]] = field(default_factory=dict)
    _gates: list[dict[str, Any]] = field(default_factory=list)
    _asked_at: float | None = None

    def look(self) -> dict[str, QueueView]:
        """Every queue now.

        Raises:
            redis.exceptions.RedisError: The broker cannot be reached.
        """
        now = time.monotonic()
        with self.app.connection_for_read() as connection:
            channel = connection.channel()  # unlike `default_channel` it gives up where the broker is gone
            found = {
                name: (channel._size(name), channel._size(name + DEFERRED), self._oldest_s(channel, name, now))  # noqa: SLF001 - kombu's only way to count all priorities
                for name in self.queues
            }
            if self._asked_at is None or now - self._asked_at >= _ASK_WORKERS_EVERY_S:
                self._asked_at = now
                self._gates = self._ask_workers(connection, channel)
        closed = Counter(name for gate in self._gates for name in gate.get("closed", ()))
        held: Counter[str] = Counter()
        for gate in self._gates:
            held.update(gate.get("held", {}))
        return {
            name: QueueView(
                name,
                ready=ready,
                deferred=deferred,
                held=held[name],
                closed=closed[name],
                workers=len(self._gates),
                oldest_s=oldest_s,
            )
            for name, (ready, deferred, oldest_s) in found.items()
        }

    def _ask_workers(self, connection: Any, channel: Any) -> list[dict[str, Any]]:
        replies: Iterable[dict[str, Any]] = (
            self.app.control.broadcast(
                "stats", reply=True, timeout=_REPLY_TIMEOUT_S, connection=connection, channel=channel
            )
            or ()
        )
        return [stats["gate"] for reply in replies for stats in reply.values() if "gate" in stats]

    def _oldest_s(self, channel: Any, name: str, now: float) -> float:
        marker, since = self._markers.get(name, (None, now))
        if marker is not None and channel.client.lpos(name, marker) is not None:
            return now - since
        newest = channel.client.lindex(name, 0)
        if newest is None or len(newest) > _LARGEST_MARKER_BYTES:
            self._markers.pop(name, None)
        else:
            self._markers[name] = (newest, now)
        return 0.0
