"""Publishes a worker's events in a thread of their own, several together after a short pause.

On the consumer's thread, all jobs would wait up to five times a second for the answer of a broker
that may be far away. Also, a heartbeat that is tried again must not delay the end of a worker.
"""

import time
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any, Final

from celery.worker.consumer import Consumer as StockConsumer

from worker.aio.threads import DaemonThreads

_PAUSE_S: Final = 0.2
"""How long events are collected: a publish takes a millisecond, with one event or with many."""
_BUFFER_LIMIT: Final = 1_000
"""Once this many events are collected, they are published at once."""
_LAST: Final = "worker.offline"
_LAST_WAITS_S: Final = 3.0
"""How long a worker waits for its last events to be published when it ends or reconnects."""


class EventThread:
    """Publishes the events of a Celery dispatcher in a thread.

    Args:
        dispatcher: The dispatcher; from now on it publishes through this thread.
    """

    def __init__(self, dispatcher: Any) -> None:
        self._thread = DaemonThreads(1, name="events")
        self._stock = dispatcher._publish  # noqa: SLF001 - Celery has no public way
        self._latest: Future[Any] | None = None
        dispatcher._publish = self._publish  # noqa: SLF001

    @property
    def is_busy(self) -> bool:
        """Whether events are being published."""
        return self._latest is not None and not self._latest.done()

    def _publish(self, event: Any, producer: Any, routing_key: str, **_: Any) -> None:
        # There are no retries here: events that could not be published go with the next ones.
        with suppress(RuntimeError):  # the thread is shut down
            self._latest = self._thread.submit(self._stock, event, producer, routing_key)
        if routing_key == _LAST:
            self.drain()

    def drain(self) -> None:
        """Wait a few seconds at most until the events that were sent are published."""
        if self._latest is not None:
            wait([self._latest], _LAST_WAITS_S)

    def end(self) -> None:
        """Publish nothing more."""
        self._thread.shutdown(cancel_futures=True)


class EventSendingConsumer(StockConsumer):
    """Celery's consumer, except that it publishes events together and does not wait for them."""

    _events: EventThread | None = None
    _flush_at_s = 0.0

    def create_task_handler(self, *args: Any, **options: Any) -> Any:
        """Return the function that handles each message; called once for each connection."""
        if self._events is not None:
            self._events.end()
            self._events = None
        connection = getattr(self, "connection", None)
        # Connections of other transports must not be used from several threads.
        if self.event_dispatcher and getattr(connection and connection.transport, "notes_acks", 0):
            self._events = EventThread(self.event_dispatcher)
        return super().create_task_handler(*args, **options)

    def on_send_event_buffered(self) -> None:
        """Publish the events of jobs together after a short pause.

        Celery would publish them in each pass of its loop.
        """
        self.event_dispatcher.buffer_limit = _BUFFER_LIMIT
        now_s = time.monotonic()
        if self.hub and now_s >= self._flush_at_s:
            self._flush_at_s = now_s + _PAUSE_S
            self.hub.call_later(_PAUSE_S, self._flush_unless_busy)

    def _flush_unless_busy(self) -> None:
        if self._events is not None and self._events.is_busy:
            self._flush_at_s = time.monotonic() + _PAUSE_S
            self.hub.call_later(_PAUSE_S, self._flush_unless_busy)
        else:
            self._flush_events()

    def shutdown(self) -> None:
        """Publish all collected events, also of jobs that ended after the loop, and shut down."""
        self._flush_events()
        if self._events is not None:
            self._events.drain()
        super().shutdown()
