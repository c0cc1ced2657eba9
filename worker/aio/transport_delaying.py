"""A channel that delays messages in the broker; see `worker.aio.delayed`."""

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from kombu.transport import redis as _stock
from kombu.utils.json import dumps

from worker.aio import delayed
from worker.aio.transport_qos import instant_of

StockChannel: Any = _stock.Channel  # kombu's classes are only half typed


class DelayingChannel(StockChannel):
    """kombu's channel, except that messages for a delayed queue wait beside its lists until they are due."""

    from_transport_options = (*StockChannel.from_transport_options, "delayed_queues")
    delayed_queues: Collection[str] = ()
    """Queues whose messages wait in the broker for their instant (Celery's `eta`), and not in a worker."""

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        """Deliver a message; one that is to wait for its instant, beside the list of a delayed queue.

        Its `eta` is a countdown from now on, so that nobody waits a second time for it, and by another clock.
        """
        headers = message.get("headers")
        delays = queue in self.delayed_queues and self.ack_emulation  # without it the channel takes as kombu does
        at = instant_of(headers.get("eta")) if delays and isinstance(headers, dict) else None
        if at is None or not isinstance(headers, dict):
            super()._put(queue, message, **kwargs)
            return
        # A copy: the headers are the producer's, who sends them again after a lost connection.
        message = message | {"headers": headers | {"eta": None}}
        countdown_us = round((at - datetime.now(UTC)).total_seconds() * 1e6)
        if countdown_us <= 0:
            super()._put(queue, message, **kwargs)
            return
        beside = self._q_for_pri(queue, self._get_message_priority(message, reverse=False))
        names = (delayed.due_of(beside), delayed.texts_of(queue), delayed.next_of(queue), delayed.CLOCK_KEY)
        keys = [self.global_keyprefix + name for name in names]
        id_ = headers.get("id") or message["properties"]["delivery_tag"]
        command = ("EVAL", delayed.DELAY, len(keys), *keys, id_, dumps(message), countdown_us)  # type: ignore[no-untyped-call, unused-ignore]
        batch = kwargs.pop("_publish_batch", None)
        if batch is not None:
            batch.add("execute_command", *command)
            return
        with self.conn_or_acquire() as client:
            client.execute_command(*command)

    def _size(self, queue: str) -> int:
        size: int = super()._size(queue)
        return size + self._delayed_size(queue)

    def _delayed_size(self, queue: str) -> int:
        if queue not in self.delayed_queues:
            return 0
        with self.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
            for name in delayed.due_sets_of(queue, sep=self.sep, steps=self.priority_steps):
                pipe.execute_command("ZCARD", self.global_keyprefix + name)
            return sum(pipe.execute())

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return bool(super()._has_queue(queue, **kwargs)) or self._delayed_size(queue) > 0

    def _purge(self, queue: str) -> int:
        size = self._delayed_size(queue)
        self._drop_delayed(queue)
        purged: int = super()._purge(queue)
        return size + purged

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        super()._delete(queue, *args, **kwargs)
        self._drop_delayed(queue)

    def _drop_delayed(self, queue: str) -> None:
        if queue not in self.delayed_queues:
            return
        names = delayed.keys_of(queue, sep=self.sep, steps=self.priority_steps)
        with self.conn_or_acquire() as client:
            client.execute_command("UNLINK", *(self.global_keyprefix + name for name in names))

    def delayed_keys(self, queue: str) -> tuple[str, ...]:
        """Name the keys that are looked into for a delayed queue's messages, without the global prefix."""
        sets = delayed.due_sets_of(queue, sep=self.sep, steps=self.priority_steps)
        return (delayed.next_of(queue), delayed.guard_of(queue), delayed.texts_of(queue), *sets)
