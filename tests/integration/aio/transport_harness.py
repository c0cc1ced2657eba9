"""A consumer of the transport in this process, with or without a hub, and commands to check it."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import redis
from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.asynchronous import Hub

OURS = "worker.aio.transport:Transport"
STOCK = "kombu.transport.redis:Transport"


def queue_of(name: str) -> Queue:
    return Queue(name, Exchange(name, type="direct"), routing_key=name)


class Receiver:
    """A connection, its channel, its consumer and the received messages."""

    def __init__(
        self, url: str, *queues: str, transport: str = OURS, prefetch: int = 10, **options: Any
    ) -> None:
        self.connection = Connection(url, transport=transport, transport_options=options)
        self.channel = self.connection.default_channel
        self.channel.basic_qos(0, prefetch, False)
        self.messages: list[Any] = []
        self.bodies: list[Any] = []
        self.on_message: Callable[[Any], None] = lambda _: None
        self.consumer = Consumer(
            self.channel, [queue_of(name) for name in queues], on_message=self._receive
        )
        self.hub: Hub | None = None
        self._loop: Iterator[Any] | None = None
        if queues:
            self.consumer.consume()

    def _receive(self, message: Any) -> None:
        self.bodies.append(message.decode())
        self.messages.append(message)
        self.on_message(message)

    def with_hub(self) -> "Receiver":
        self.hub = Hub()
        self.hub.propagate_errors = self.connection.connection_errors
        self.connection.register_with_event_loop(self.hub)
        self._loop = self.hub.create_loop()
        return self

    def turn(self) -> None:
        """Make one turn of the hub, or wait once for events."""
        if self._loop is not None:
            next(self._loop)
            return
        with suppress(TimeoutError):
            self.connection.drain_events(timeout=0.2)

    def until(self, check: Callable[[], Any], *, within_s: float = 15.0) -> None:
        """Take turns until something is true; `within_s` is the longest time without a message."""
        deadline, arrived = time.monotonic() + within_s, len(self.messages)
        while not check():
            if len(self.messages) > arrived:  # a slow machine is not a failure
                deadline, arrived = time.monotonic() + within_s, len(self.messages)
            if time.monotonic() > deadline:
                pytest.fail(f"it did not come true {within_s} s after the last arrival")
            self.turn()

    def until_asked(self) -> None:
        """Take turns until a request is sent; its reply is not read."""
        self.connection.transport.cycle.on_poll_start()
        assert self.channel._in_poll

    def close(self) -> None:
        if self.hub is not None:
            self.hub.close()
        self.connection.release()


@contextmanager
def receiving(*args: Any, **kwargs: Any) -> Iterator[Receiver]:
    made = Receiver(*args, **kwargs)
    try:
        yield made
    finally:
        made.close()


def send(
    url: str,
    queue: str,
    *bodies: Any,
    priority: int | None = None,
    tenant: str = "",
    **options: Any,
) -> None:
    """Publish as an unmodified Celery producer does."""
    headers = {"tenant": tenant} if tenant else None
    with Connection(url, transport=STOCK, transport_options=options) as connection:
        producer = Producer(connection)
        for body in bodies:
            producer.publish(
                body,
                exchange=queue,
                routing_key=queue,
                declare=[queue_of(queue)],
                priority=priority,
                headers=headers,
                serializer="json",
            )


def calls(store: "redis.Redis", command: str) -> int:
    """Return how often the server ran a command."""
    return int(store.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0))


def waiting(books: Any, queue: str) -> list[Any]:
    """Return the bodies in a queue, the next one first."""
    return [json.loads(plain_body(text)) for text in reversed(books.lrange(queue, 0, -1))]


def plain_body(text: str) -> bytes:
    return base64.b64decode(json.loads(text)["body"])
