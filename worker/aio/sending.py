"""Sends many jobs in one round trip, with the same messages as `apply_async`.

`apply_async` builds each message through layers that support every broker, and takes one round trip
for each message. If the broker is Redis, a message without special options does not need these
layers.
"""

import functools
from collections.abc import Iterable
from typing import Any, Final
from uuid import uuid4

import celery
from celery import Signature, signals
from celery.result import AsyncResult
from kombu import serialization
from kombu.exceptions import OperationalError
from kombu.transport import redis as _stock

from worker.aio import bridge

StockChannel: Any = _stock.Channel  # kombu's classes are only half typed
_dumps: Any = serialization.dumps

_PLAIN: Final = frozenset(
    {
        "queue",
        "priority",
        "countdown",
        "eta",
        "task_id",
        "headers",
        "time_limit",
        "soft_time_limit",
        "ignore_result",
    }
)
"""Options that change the content of a message, but not the way it is sent."""
_WATCHED: Final = (signals.before_task_publish, signals.after_task_publish, signals.task_sent)
_BATCH: Final = 500
"""The most messages in one round trip."""

Entry = tuple[str, dict[str, Any]]
"""A queue's name and a message."""


class Sender:
    """A sender for signatures of an app's tasks, which threads may share.

    It sends plain messages itself, and calls `apply_async` for messages that need more:
    - messages with options that are not in `_PLAIN`, with an exchange or another serializer;
    - messages for tasks that override `apply_async`;
    - messages that a job sends;
    - all messages, if a signal around publishing has a receiver or the broker is not Redis.

    Args:
        app: The Celery app.
    """

    def __init__(self, app: celery.Celery) -> None:
        self._app = app
        self._declared: set[str] = set()

    def send(self, signature: Signature) -> AsyncResult:
        """Send a job, as `signature.apply_async()` does.

        Raises:
            kombu.exceptions.OperationalError: The broker cannot be reached, after Celery's own
                retries.
        """
        return self.send_many((signature,))[0]

    def send_many(self, signatures: Iterable[Signature]) -> list[AsyncResult]:
        """Send jobs, up to 500 in a round trip, and return their results in the same order.

        If the connection is lost, the batch is sent again. Messages that had arrived are then sent
        twice, as with Celery's own retries.

        Raises:
            kombu.exceptions.OperationalError: The broker cannot be reached, after Celery's own
                retries.
        """
        whole = list(signatures)
        results: list[AsyncResult] = bridge.call(self._send_all, whole)
        return results

    def _send_all(self, signatures: list[Signature]) -> list[AsyncResult]:
        results = []
        for first in range(0, len(signatures), _BATCH):
            results += self._send_batch(signatures[first : first + _BATCH])
        return results

    def _send_batch(self, signatures: list[Signature]) -> list[AsyncResult]:
        if not self._is_plain_here():
            return [signature.apply_async() for signature in signatures]
        with self._app.producer_or_acquire() as producer:
            plain = self._plain_entries(producer.channel, signatures)
            sent = bool(plain) and _put(producer, [entry for _, entry in plain.values()])
        return [
            self._result(signature, *plain[at], sent=sent)
            if at in plain
            else self._send_first(signature)
            for at, signature in enumerate(signatures)
        ]

    def _plain_entries(
        self, channel: Any, signatures: list[Signature]
    ) -> dict[int, tuple[str, Entry]]:
        """Return the ids and entries of the plain messages, by their index in `signatures`."""
        if not isinstance(channel, StockChannel):
            return {}
        plain = {}
        for at, signature in enumerate(signatures):
            task_id = signature.options.get("task_id") or str(uuid4())
            if entry := self._entry(channel, signature, task_id):
                plain[at] = task_id, entry
        return plain

    def _result(
        self, signature: Signature, task_id: str, entry: Entry, *, sent: bool
    ) -> AsyncResult:
        if not sent:
            return signature.apply_async(task_id=task_id)
        result = self._app.AsyncResult(task_id)
        result.ignored = entry[1]["headers"]["ignore_result"]
        return result

    def _send_first(self, signature: Signature) -> AsyncResult:
        result = signature.apply_async()
        options = self._routed(signature)
        if options is not None:
            self._declared.add(self._queue_of(options).name)  # Celery has declared it
        return result

    def _is_plain_here(self) -> bool:
        """Whether plain messages may be sent from here without `apply_async`."""
        if any(signal.receivers for signal in _WATCHED) or self._app.current_worker_task:
            return False
        return self._configured_plain

    @functools.cached_property
    def _configured_plain(self) -> bool:
        conf = self._app.conf
        special = conf.task_always_eager or conf.task_send_sent_event or conf.task_compression
        return not special and conf.task_protocol == 2  # noqa: PLR2004 - Celery's number

    @functools.cached_property
    def _serializer(self) -> str:
        return str(self._app.conf.task_serializer)

    def _routed(self, signature: Signature) -> dict[str, Any] | None:
        """Return the options of a signature, its task and its route; None if they are not plain."""
        task = self._app.tasks.get(signature.task)
        own = {}
        if task is not None:
            special = (getattr(task, "__self__", None), task._dump_pydantic_arguments)  # noqa: SLF001 - as Celery does
            if type(task).apply_async is not celery.Task.apply_async or special != (None, None):
                return None
            own = _without_none(task._get_exec_options()) | {"ignore_result": task.ignore_result}  # noqa: SLF001
        options = own | _without_none(signature.options)
        options.pop("task_type", None)
        if options.get("serializer") == self._serializer:
            del options["serializer"]
        routed = self._app.amqp.router.route(
            options, signature.task, signature.args, signature.kwargs, task
        )
        return routed if routed.keys() <= _PLAIN and type(signature) is Signature else None

    def _queue_of(self, options: dict[str, Any]) -> Any:
        queue = options.get("queue") or self._app.amqp.default_queue
        return self._app.amqp.queues[queue] if isinstance(queue, str) else queue

    def _entry(self, channel: Any, signature: Signature, task_id: str) -> Entry | None:
        options = self._routed(signature)
        if options is None:
            return None
        queue = self._queue_of(options)
        if queue.name not in self._declared or queue.exchange.type != "direct":
            return None
        task = self._app.tasks.get(signature.task)
        if task is not None and task.typing and hasattr(task, "__header__"):
            task.__header__(*signature.args, **signature.kwargs)
        headers, properties, body, _ = self._app.amqp.create_task_message(
            task_id,
            signature.task,
            signature.args,
            signature.kwargs,
            reply_to=self._app.thread_oid,
            **{name: options.get(name) for name in _OF_MESSAGE},
        )
        content_type, content_encoding, text = _dumps(body, serializer=self._serializer)
        encoded, body_encoding = channel.encode_body(text, channel.body_encoding)
        priority = options.get("priority")
        return queue.name, {
            "body": encoded,
            "content-encoding": content_encoding,
            "content-type": content_type,
            "headers": headers | options.get("headers", {}),
            "properties": {
                **properties,
                "delivery_mode": queue.exchange.delivery_mode or 2,
                "delivery_info": {"exchange": "", "routing_key": queue.name},
                "priority": priority or channel.default_priority,
                "body_encoding": body_encoding,
                "delivery_tag": str(uuid4()),
            },
        }


def _without_none(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


_OF_MESSAGE: Final = ("countdown", "eta", "time_limit", "soft_time_limit", "ignore_result")


def _put(producer: Any, entries: list[Entry]) -> bool:
    """Push messages. Return false if the connection is lost; `apply_async` then opens it again."""
    channel = producer.channel
    try:
        with producer.connection._reraise_as_library_errors():  # noqa: SLF001 - as Celery does
            if len(entries) == 1:
                channel._put(*entries[0])  # noqa: SLF001
                return True
            batch = _Batch()
            for queue, message in entries:
                channel._put(queue, message, _publish_batch=batch)  # noqa: SLF001
            with channel.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
                for name, args in batch.commands:
                    getattr(pipe, name)(*args)
                pipe.execute()
    except OperationalError:
        return False
    return True


class _Batch:
    """The commands of a channel's `_put`, collected as in kombu's own batches."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, tuple[Any, ...]]] = []

    def add(self, name: str, *args: Any) -> None:
        self.commands.append((name, args))
