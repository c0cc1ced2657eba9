"""Delays messages in the broker; see `worker.aio.transport.delayed`."""

from bisect import bisect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from kombu.transport import redis as _stock
from kombu.utils.json import dumps

from worker.aio.transport import delayed
from worker.aio.transport.eta import instant_of
from worker.aio.transport.scripts import DELAY
from worker.aio.transport.sharing import count_parked, drop_parked

StockChannel: Any = _stock.Channel  # kombu's classes are only half typed


_LEAST_URGENT: Final = 9


@dataclass(frozen=True)
class QueueNames:
    """The rules by which the keys of queues are named.

    Attributes:
        prefix: The text before every key.
        sep: The text between a queue and a priority.
        steps: The priorities that have a list of their own, ascending.
        delayed: The delayed queues.
    """

    prefix: str
    sep: str
    steps: tuple[int, ...]
    delayed: frozenset[str]

    def list_of(self, queue: str, priority: Any) -> str:
        """Return the name of the list of a queue and a priority, without the prefix."""
        try:
            urgency = max(0, min(int(priority), _LEAST_URGENT))
        except (TypeError, ValueError):
            urgency = 0
        step = self.steps[bisect(self.steps, urgency) - 1]
        return f"{queue}{self.sep}{step}" if step else queue


def commands_for(
    queue: str, message: dict[str, Any], *, names: QueueNames, encode: Callable[[Any], str]
) -> list[tuple[Any, ...]]:
    """Return the commands that deliver a message.

    In a delayed queue, a message with an `eta` waits beside the list. The `eta` becomes a
    countdown, so that no worker waits for it a second time, by another clock.

    Args:
        queue: The queue that the message goes to.
        message: The message, as kombu sends it.
        names: The names of the keys.
        encode: Encodes the message as JSON.
    """
    list_name = names.list_of(queue, message["properties"].get("priority"))
    headers = message.get("headers")
    at = (
        instant_of(headers.get("eta"))
        if queue in names.delayed and isinstance(headers, dict)
        else None
    )
    if at is None or not isinstance(headers, dict):
        return [("LPUSH", names.prefix + list_name, encode(message))]
    # A copy: after a lost connection, the producer sends the same headers again.
    message = message | {"headers": headers | {"eta": None}}
    countdown_us = round((at - datetime.now(UTC)).total_seconds() * 1e6)
    if countdown_us <= 0:
        return [("LPUSH", names.prefix + list_name, encode(message))]
    keys = (
        delayed.due_of(list_name),
        delayed.texts_of(queue),
        delayed.next_of(queue),
        delayed.CLOCK_KEY,
    )
    job = headers.get("id") or message["properties"]["delivery_tag"]
    arguments = (job, encode(message), countdown_us)
    return [("EVAL", DELAY, len(keys), *(names.prefix + key for key in keys), *arguments)]


class DelayingChannel(StockChannel):
    """kombu's channel, except that messages for a delayed queue wait beside its lists."""

    from_transport_options = (*StockChannel.from_transport_options, "delayed_queues")
    delayed_queues: Collection[str] | Mapping[str, str | None] = ()
    """Queues whose messages wait in the broker, not in a worker, for their instant (`eta`).

    In a mapping, the value of a queue may be a second queue: due messages take the turns of both.
    """

    def goes_before(self, queue: str) -> str | None:
        """Return the second queue whose turns the due messages of a delayed queue take, if any."""
        return self.delayed_queues.get(queue) if isinstance(self.delayed_queues, Mapping) else None

    @property
    def queue_names(self) -> QueueNames:
        """The rules by which this channel names its keys."""
        delays = self.ack_emulation  # without it the channel takes messages like kombu's own
        steps = tuple(self.priority_steps)
        return QueueNames(
            self.global_keyprefix, self.sep, steps, frozenset(self.delayed_queues if delays else ())
        )

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        """Send a message to a queue's list, or to the set beside the list if it must wait."""
        names = self.queue_names
        if queue not in names.delayed:
            super()._put(queue, message, **kwargs)
            return
        commands = commands_for(queue, message, names=names, encode=dumps)
        batch = kwargs.pop("_publish_batch", None)
        if batch is not None:
            for command in commands:
                batch.add("execute_command", *command)
            return
        with self.conn_or_acquire() as client:
            for command in commands:
                client.execute_command(*command)

    def _size(self, queue: str) -> int:
        size: int = super()._size(queue)
        return size + self._delayed_size(queue) + count_parked(self, queue)

    def _delayed_size(self, queue: str) -> int:
        if queue not in self.delayed_queues:
            return 0
        with self.conn_or_acquire() as client, client.pipeline(transaction=False) as pipe:
            for name in delayed.due_sets_of(queue, sep=self.sep, steps=self.priority_steps):
                pipe.execute_command("ZCARD", self.global_keyprefix + name)
            return sum(pipe.execute())

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        has: bool = super()._has_queue(queue, **kwargs)
        return has or self._delayed_size(queue) > 0 or count_parked(self, queue) > 0

    def _purge(self, queue: str) -> int:
        size = self._delayed_size(queue) + drop_parked(self, queue)
        self._drop_delayed(queue)
        purged: int = super()._purge(queue)
        return size + purged

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        super()._delete(queue, *args, **kwargs)
        drop_parked(self, queue)
        self._drop_delayed(queue)

    def _drop_delayed(self, queue: str) -> None:
        if queue not in self.delayed_queues:
            return
        names = delayed.keys_of(queue, sep=self.sep, steps=self.priority_steps)
        with self.conn_or_acquire() as client:
            client.execute_command("UNLINK", *(self.global_keyprefix + name for name in names))

    def delayed_keys(self, queue: str) -> tuple[str, ...]:
        """Return the keys with a delayed queue's messages, without the global prefix."""
        sets = delayed.due_sets_of(queue, sep=self.sep, steps=self.priority_steps)
        return (delayed.next_of(queue), delayed.leader_of(queue), delayed.texts_of(queue), *sets)
