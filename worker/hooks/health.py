"""Reports the health of the key pools, in the worker's stats and as `keys-status` events."""

import asyncio
import logging
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from celery import bootsteps, signals

from config.current import get_settings
from worker.aio import lifespan
from worker.heartbeat import Heartbeat
from worker.runtime import Runtime

_logger = logging.getLogger(__name__)

EVENT = "keys-status"
"""The event's type, in its own group `keys`.

Additional fields in a `worker-*` event could stop other workers that listen to these events.
"""


class PoolHealth(bootsteps.StartStopStep):
    """Reads the key pools on the pool's loop, and sends events on the worker's thread."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        settings = get_settings()
        self.interval_s = settings.status_interval_s
        self._summaries: dict[str, Any] = {}
        self._clock_skew_s = 0.0
        self._timer: Any = None
        self._heartbeat = Heartbeat(Path(settings.heartbeat_path))
        if settings.heartbeat_path:
            signals.worker_ready.connect(self._heartbeat.note_start, weak=False)
            lifespan.on_startup(self._heartbeat.run)
        lifespan.on_startup(self._watch)
        lifespan.on_startup(self._check_keys)

    def start(self, parent: Any) -> None:
        """Start sending events, and let the heartbeat watch the consumer.

        The heartbeat watches it only if the broker is the pool's Redis: another broker may hang and
        stop the consumer while the pool's Redis answers.
        """
        settings, consumer = get_settings(), parent.consumer
        if settings.heartbeat_path and settings.broker_url == settings.pool_url:
            consumer.loop = self._heartbeat.watched(consumer.loop, parent.timer)
        self._timer = parent.timer.call_repeatedly(self.interval_s, self._announce, (parent,))

    def stop(self, parent: Any) -> None:  # noqa: ARG002 - Celery gives the signature
        """Stop sending events. A second call does nothing."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def info(self, parent: Any) -> dict[str, Any]:  # noqa: ARG002
        """Return counts by service, without secrets, for `inspect stats` and Flower's worker page.

        Also returns by how many seconds this machine's clock differs from the clock of Redis.
        """
        return {"keys": self._summaries, "clock_skew_s": round(self._clock_skew_s, 3)}

    def _announce(self, parent: Any) -> None:
        dispatcher = getattr(parent.consumer, "event_dispatcher", None)
        if dispatcher is not None and dispatcher.enabled and self._summaries:
            dispatcher.send(EVENT, services=self._summaries)

    async def _check_keys(self) -> None:
        # This runs in the background; nothing waits for it.
        await Runtime.current().key_checks.run()

    async def _watch(self) -> None:
        failed = False
        while True:
            began_s = time.time()
            try:
                views = await Runtime.current().view()
                await Runtime.current().publish_keys()
            except Exception as exc:  # noqa: BLE001 - the next round must come after any error
                if not failed:
                    _logger.warning(
                        "cannot read the key pools (%s); this worker shows old counts until it can",
                        exc,
                    )
                failed = True
            else:
                failed = False
                self._summaries = {service: view.summary() for service, view in views.items()}
                instants_s = [view.redis_ms / 1000 for view in views.values()]
                self._clock_skew_s = clock_skew_s(instants_s, began_s=began_s, ended_s=time.time())
            self._heartbeat.redis_answers = not failed
            await asyncio.sleep(self.interval_s)


def clock_skew_s(instants_s: Collection[float], *, began_s: float, ended_s: float) -> float:
    """Return by how much, at least, this clock is ahead of that of Redis; negative: behind it.

    A slow answer is not skew, because Redis may read its clock at any time before its answer.

    Args:
        instants_s: The times that Redis reported, in seconds since 1970.
        began_s: This machine's time when Redis was asked.
        ended_s: This machine's time when Redis had answered.
    """
    earliest_s, latest_s = min(instants_s, default=began_s), max(instants_s, default=began_s)
    if latest_s < began_s:
        return began_s - latest_s
    return min(0.0, ended_s - earliest_s)
