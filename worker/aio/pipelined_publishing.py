"""Publishes messages of jobs in pipelines: the messages of one moment in one round trip.

For each message, Celery blocks a thread on a connection. If hundreds of jobs go back to their
queue, that costs more than everything else they do. Here Celery builds the message as always and
sends the signals, but a stand-in for kombu's producer keeps the message. Then one connection on the
pool's loop sends all kept messages.

This needs our Redis transport. The messages must go to a queue by its name, without an exchange.
"""

import asyncio
import base64
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary

import celery
import redis
import redis.asyncio
from kombu import serialization
from kombu.entity import maybe_delivery_mode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from worker.aio import connections, fast_json
from worker.aio.pipelining import Command, Pipelining, pipelining_of
from worker.aio.transport.channel import Channel
from worker.aio.transport.delaying import QueueNames, commands_for

is_wanted: ContextVar[bool] = ContextVar("messages are sent in pipelines", default=False)
"""True while a task with `light_retry` sends its job back to its queue."""


_NOT_IN_THE_MESSAGE: Final = (
    "retry", "retry_policy", "declare", "timeout", "confirm_timeout", "mandatory", "immediate",
)  # fmt: skip
"""Arguments of kombu's producer that are not properties of the message."""


class NotPlain(Exception):  # noqa: N818 - it is not an error
    """The message is compressed or goes by an exchange, or Celery itself has to send it."""


class _Connection:
    """The part of a producer's connection that Celery uses."""

    @staticmethod
    def _reraise_as_library_errors() -> AbstractContextManager[None]:
        return nullcontext()


class KeptMessages:
    """A stand-in for kombu's producer that keeps messages, as kombu would send them."""

    connection = _Connection()
    serializer = None

    def __init__(self) -> None:
        self.messages: list[tuple[str, dict[str, Any]]] = []
        """The messages, each after the name of its queue."""

    def publish(
        self,
        body: Any,
        *,
        routing_key: str,
        exchange: Any = "",
        serializer: str | None = None,
        compression: str | None = None,
        headers: dict[str, Any] | None = None,
        delivery_mode: Any = None,
        priority: int | None = 0,
        expiration: float | None = None,
        **properties: Any,
    ) -> None:
        """Keep a message.

        Raises:
            NotPlain: The message goes by an exchange, or is compressed.
        """
        if exchange or compression or not routing_key or "content_type" in properties:
            raise NotPlain
        for name in _NOT_IN_THE_MESSAGE:
            properties.pop(name, None)
        content_type, content_encoding, text = serialization.dumps(body, serializer=serializer)  # type: ignore[no-untyped-call, unused-ignore]
        if expiration is not None:
            properties["expiration"] = str(int(expiration * 1000))
        properties |= {
            "delivery_mode": maybe_delivery_mode(delivery_mode),  # type: ignore[no-untyped-call, unused-ignore]
            "delivery_info": {"exchange": "", "routing_key": routing_key},
            "priority": priority or 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        }
        plain = text if isinstance(text, bytes) else text.encode()
        message = {
            "body": base64.b64encode(plain).decode(),
            "content-encoding": content_encoding,
            "content-type": content_type,
            "headers": headers or {},
            "properties": properties,
        }
        self.messages.append((routing_key, message))


@dataclass(frozen=True)
class Publisher:
    """The sender of kept messages to one broker.

    Attributes:
        pipelining: The pipelines to the broker.
        names: The names of the queues' keys in the broker.
    """

    pipelining: Pipelining
    names: QueueNames

    async def send(self, kept: KeptMessages) -> None:
        """Send messages, in one round trip with other jobs' messages of this moment.

        Raises:
            redis.RedisError: The broker cannot be reached, or rejects the messages.
        """
        commands: list[Command] = []
        for queue, message in kept.messages:
            commands += commands_for(queue, message, names=self.names, encode=fast_json.dumps)
        await self.pipelining.run(commands)


_Publishers = dict[celery.Celery, "asyncio.Task[Publisher | None]"]
_by_loop: "WeakKeyDictionary[asyncio.AbstractEventLoop, _Publishers]" = WeakKeyDictionary()


async def publisher_of(app: celery.Celery) -> Publisher | None:
    """Return the running loop's publisher to an app's broker; None if only Celery can publish.

    Raises:
        Exception: The broker cannot be reached.
    """
    known = _by_loop.setdefault(asyncio.get_running_loop(), {})
    opening = known.get(app)
    if opening is None or (
        opening.done() and (opening.cancelled() or opening.exception() is not None)
    ):
        opening = known[app] = asyncio.create_task(_open(app))
    return await asyncio.shield(opening)


async def _open(app: celery.Celery) -> Publisher | None:
    if app.conf.task_send_sent_event:  # then Celery sends an event by an exchange for each message
        return None
    target = await asyncio.to_thread(_target_of, app)
    if target is None:
        return None
    params, names = target
    return Publisher(pipelining_of(("broker", id(app)), lambda: _client(params)), names)


def _target_of(app: celery.Celery) -> tuple[dict[str, Any], QueueNames] | None:
    with app.connection_for_write() as connection:
        channel = connection.channel()
        if not isinstance(channel, Channel):
            return None
        return channel._connparams(), channel.queue_names  # noqa: SLF001 - no public way


def _client(params: dict[str, Any]) -> "redis.asyncio.Redis":
    params = connections.with_our_connections(params, asynchronous=True)
    params["retry"] = Retry(NoBackoff(), 0)  # the caller decides how long to retry
    return redis.asyncio.Redis.from_pool(redis.asyncio.ConnectionPool(**params))


async def publish(signature: Any, app: celery.Celery) -> None:
    """Send a signature's message, in a pipeline if that is possible, otherwise in a thread.

    Raises:
        Exception: An error of kombu or redis-py: the broker cannot be reached, or rejects the
            message.
    """
    publisher = await publisher_of(app)
    if publisher is not None:
        kept = KeptMessages()
        try:
            signature.type.apply_async(
                signature.args, signature.kwargs, producer=kept, **signature.options
            )
        except NotPlain:
            pass
        else:
            await publisher.send(kept)
            return
    await asyncio.to_thread(signature.apply_async)


async def send(app: celery.Celery, make: Callable[[KeptMessages], Any]) -> Any:
    """Build a message and send it, without retries.

    Args:
        app: The app.
        make: A function that publishes the message with the given producer.

    Returns:
        The return value of `make`.

    Raises:
        NotPlain: Celery itself must send the message, because of the message or of the broker.
        Exception: The broker cannot be reached, or rejects the message.
    """
    publisher = await publisher_of(app)
    if publisher is None:
        raise NotPlain
    kept = KeptMessages()
    made = make(kept)
    await publisher.send(kept)
    return made
