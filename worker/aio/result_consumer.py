"""Waits for results as Celery's does, but listens for one from when it is waited for, not from when its job is sent.

Celery subscribes to each job's channel before it sends the job, which most callers pay for nothing:
a command more for each job sent, and one to take it back. Who listens later may miss what was
published before. So each time the server confirms a subscription the stored state is read once
more: what was stored before is seen then, what is stored afterwards is heard of.
"""

from collections import deque
from typing import Any

from celery import states
from celery.backends.redis import ResultConsumer as StockResultConsumer

_Stock: Any = StockResultConsumer  # Celery has no types


class ResultConsumer(_Stock):
    """One a client."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._confirmed: deque[bytes | str] = deque()
        super().__init__(*args, **kwargs)

    def start(self, initial_task_id: str, **kwargs: Any) -> None:
        """Begin to listen, for one job's result."""
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
        """Wait for an event, in seconds at most, and look at what was there before it was listened for."""
        super().drain_events(timeout)
        if self._confirmed:
            with self._locked():
                self._look()

    def _look(self) -> None:
        keys = []
        while self._confirmed:
            keys.append(self._confirmed.popleft())
        if not keys:
            return  # another thread was quicker
        with self.reconnect_on_error():  # which looks at all of them
            for text in self.backend.client.mget(keys):
                meta = self._decode_result(text) if text else None
                if meta is not None and meta["status"] in states.READY_STATES:
                    self.on_state_change(meta, None)
