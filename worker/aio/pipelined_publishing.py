"""Publishes what jobs of the pool send in pipelines.

The messages of one moment go out together, on the pool's loop.

Celery blocks on a connection for each message, in a thread. That is right for a task that sends one
now and then; where hundreds of jobs go back to their queue it costs more than all else that they
do. Here Celery makes the message as always, its signals included, and a stand-in for kombu's
producer keeps it; one connection takes all that were made.

It needs our Redis transport, and a message to a queue by its name (as Celery sends them): see
`publisher_of`.
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

is_wanted: ContextVar[bool] = ContextVar("messages shall go out in pipelines", default=False)
"""Set while a task that asks for it sends its job back."""


_NOT_IN_THE_MESSAGE: Final = (
    "retry", "retry_policy", "declare", "timeout", "confirm_timeout", "mandatory", "immediate",
)  # fmt: skip
"""What kombu's producer takes beside a message's properties."""


class NotPlain(Exception):  # noqa: N818 - it is no fault
    """This message is none that goes to a queue by its name, uncompressed."""


class _Connection:
    """Of a producer's connection Celery needs no more than this."""

    @staticmethod
    def _reraise_as_library_errors() -> AbstractContextManager[None]:
        return nullcontext()


class KeptMessages:
    """Stands in for kombu's producer: keeps messages, as kombu would send them, and sends none."""

    connection = _Connection()
    serializer = None

    def __init__(self) -> None:
        self.messages: list[tuple[str, dict[str, Any]]] = []
        """Each with the queue that it goes to."""

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
            NotPlain: It goes by an exchange, or compressed.
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
    """Sends kept messages to one broker.

    Attributes:
        pipelining: The connection.
        names: How the broker's keys are named.
    """

    pipelining: Pipelining
    names: QueueNames

    async def send(self, kept: KeptMessages) -> None:
        """Send what was kept, in one round trip with all that others send in this moment.

        Raises:
            redis.RedisError: The broker cannot be reached, or refuses.
        """
        commands: list[Command] = []
        for queue, message in kept.messages:
            commands += commands_for(queue, message, names=self.names, encode=fast_json.dumps)
        await self.pipelining.run(commands)


_Publishers = dict[celery.Celery, "asyncio.Task[Publisher | None]"]
_by_loop: "WeakKeyDictionary[asyncio.AbstractEventLoop, _Publishers]" = WeakKeyDictionary()


async def publisher_of(app: celery.Celery) -> Publisher | None:
    """Give what publishes to an app's broker from the running loop.

    Nothing where that needs Celery's own way.

    Raises:
        Exception: The broker cannot be asked which way it needs, since it is away.
    """
    known = _by_loop.setdefault(asyncio.get_running_loop(), {})
    found = known.get(app)
    if found is None or (found.done() and (found.cancelled() or found.exception() is not None)):
        found = known[app] = asyncio.create_task(_make(app))
    return await asyncio.shield(found)


async def _make(app: celery.Celery) -> Publisher | None:
    if app.conf.task_send_sent_event:  # an event for each message, which goes by an exchange
        return None
    seen = await asyncio.to_thread(_look_at, app)
    if seen is None:
        return None
    params, names = seen
    return Publisher(pipelining_of(("broker", id(app)), lambda: _client(params)), names)


def _look_at(app: celery.Celery) -> tuple[dict[str, Any], QueueNames] | None:
    with app.connection_for_write() as connection:
        channel = connection.channel()
        if not isinstance(channel, Channel):
            return None
        return channel._connparams(), channel.queue_names  # noqa: SLF001 - kombu's only way to tell


def _client(params: dict[str, Any]) -> "redis.asyncio.Redis":
    params = dict(params)
    kind = params.pop("connection_class", None) or redis.Connection
    params["connection_class"] = next(
        (ours for stock, ours in connections.ASYNC_CLASSES if issubclass(kind, stock)),
        connections.TcpConnection,
    )
    params["retry"] = Retry(NoBackoff(), 0)  # who publishes tries again, and knows for how long
    return redis.asyncio.Redis.from_pool(redis.asyncio.ConnectionPool(**params))


async def publish(signature: Any, app: celery.Celery) -> None:
    """Send a signature's message, in a pipeline where the broker allows it and else in a thread.

    Raises:
        Exception: The broker cannot be reached, or refuses; of kombu or redis-py.
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
    """Have a message made and send it, once; give what the making gave.

    Args:
        app: The app.
        make: Makes the message with the producer that it is given.

    Raises:
        NotPlain: This message or this broker needs Celery's own way.
        Exception: The broker cannot be reached, or refuses.
    """
    publisher = await publisher_of(app)
    if publisher is None:
        raise NotPlain
    kept = KeptMessages()
    made = make(kept)
    await publisher.send(kept)
    return made
