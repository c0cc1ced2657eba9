"""Waits for results like Celery, but subscribes to a result only when a caller waits for it.

Celery subscribes to each job's channel before it sends the job. That takes two more commands for
each job, which most callers do not need. But a later subscription may miss the published result.
So the stored result is read each time the server confirms a subscription. From then on, a new
result is published to the subscriber.
"""

from collections import deque
from typing import Any

from celery import states
from celery.backends.redis import ResultConsumer as StockResultConsumer

_Stock: Any = StockResultConsumer  # Celery has no types


class ResultConsumer(_Stock):
    """The result consumer of a client's backend."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._confirmed: deque[bytes | str] = deque()
        super().__init__(*args, **kwargs)

    def start(self, initial_task_id: str, **kwargs: Any) -> None:
        """Subscribe to one job's result."""
        with self._locked():
            super().start(initial_task_id, **kwargs)
            self._note_confirmations()

    def _reconnect_pubsub(self) -> None:
        with self._locked():
            super()._reconnect_pubsub()
            self._note_confirmations()

    def _note_confirmations(self) -> None:
        pubsub = self._pubsub
        stock, confirmed = pubsub.handle_message, self._confirmed

        def handle_message(response: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(response, list) and response[0] in {b"subscribe", "subscribe"}:
                confirmed.append(response[1])
            return stock(response, *args, **kwargs)

        pubsub.handle_message = handle_message

    def drain_events(self, timeout: float | None = None) -> None:
        """Wait for an event for at most `timeout` seconds; read results of new subscriptions."""
        super().drain_events(timeout)
        if self._confirmed:
            with self._locked():
                self._read_stored()

    def _read_stored(self) -> None:
        keys = []
        while self._confirmed:
            keys.append(self._confirmed.popleft())
        if not keys:
            return  # another thread has read them
        with self.reconnect_on_error():  # a reconnection reads all results again
            for text in self.backend.client.mget(keys):
                meta = self._decode_result(text) if text else None
                if meta is not None and meta["status"] in states.READY_STATES:
                    self.on_state_change(meta, None)
