"""The health of the key pools, in the worker's stats and as `keys-status` events for Flower."""

import asyncio
import logging
from pathlib import Path
from typing import Any

from celery import bootsteps, signals

from config.current import get_settings
from worker.aio import lifespan
from worker.heartbeat import Heartbeat
from worker.runtime import Runtime

_logger = logging.getLogger(__name__)

EVENT = "keys-status"
"""An event of a group of its own.

Fields of ours in a `worker-*` event could stop other workers that listen to those.
"""


class PoolHealth(bootsteps.StartStopStep):
    """Reads the key pools on the pool's loop, and sends events on the worker's thread."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        settings = get_settings()
        self.interval_s = settings.status_interval_s
        self._summaries: dict[str, Any] = {}
        self._timer: Any = None
        self._heartbeat = Heartbeat(Path(settings.heartbeat_path))
        if settings.heartbeat_path:
            signals.worker_ready.connect(self._heartbeat.note_start, weak=False)
            lifespan.on_startup(self._heartbeat.run)
        lifespan.on_startup(self._watch)
        lifespan.on_startup(self._check_keys)

    def start(self, parent: Any) -> None:
        """Start sending events."""
        self._timer = parent.timer.call_repeatedly(self.interval_s, self._announce, (parent,))

    def stop(self, parent: Any) -> None:  # noqa: ARG002 - Celery gives the signature
        """Stop sending events. A second call does nothing."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def info(self, parent: Any) -> dict[str, Any]:  # noqa: ARG002
        """Give `inspect stats` and Flower's worker page counts by service, without secrets."""
        return {"keys": self._summaries}

    def _announce(self, parent: Any) -> None:
        dispatcher = getattr(parent.consumer, "event_dispatcher", None)
        if dispatcher is not None and dispatcher.enabled and self._summaries:
            dispatcher.send(EVENT, services=self._summaries)

    async def _check_keys(self) -> None:
        # A background task: nothing waits for it.
        await Runtime.current().key_checks.run()

    async def _watch(self) -> None:
        failed = False
        while True:
            try:
                views = await Runtime.current().view()
            except Exception as exc:  # noqa: BLE001 - the next round must come after any error
                if not failed:
                    _logger.warning("cannot read the key pools: %s", exc)
                failed = True
            else:
                failed = False
                self._summaries = {service: view.summary() for service, view in views.items()}
            self._heartbeat.redis_answers = not failed
            await asyncio.sleep(self.interval_s)
