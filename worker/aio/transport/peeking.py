"""Reads messages of a queue without taking them."""

import json
from typing import Any, Final

from kombu.exceptions import KombuError
from kombu.transport import redis as _stock

from worker.aio.transport.delayed import lists_of
from worker.aio.transport.scripts import PEEK

StockChannel: Any = _stock.Channel  # kombu's classes are only half typed

_MOST: Final = 50
"""The most messages to read at each end of a list."""
_MOST_BYTES: Final = 200_000
"""The most bytes to read of each list. The last message may exceed this number."""


class QueuePeeker:
    """Reads the queues of a kombu channel on Redis, a part of each queue at a time, oldest first.

    It also reads the newest messages each time, so a new message is seen at once unless many came
    after it.
    """

    def __init__(self) -> None:
        self._skip: dict[str, int] = {}

    def peek(self, channel: Any, queue: str) -> list[tuple[int, str, dict[str, Any]]] | None:
        """Read some messages of a queue; they stay where they are.

        Args:
            channel: A channel of kombu's Redis transport, or of ours.
            queue: The queue's name.

        Returns:
            For each message its priority, the name of its task and the task's keyword arguments.
            Messages that are not Celery tasks in JSON are left out. None if the transport is not
            one for Redis.

        Raises:
            redis.exceptions.RedisError: The broker cannot be reached.
        """
        if not isinstance(channel, StockChannel):
            return None
        steps = tuple(channel.priority_steps)
        keys = [
            channel.global_keyprefix + name
            for name in lists_of(queue, sep=channel.sep, steps=steps)
        ]
        with channel.conn_or_acquire() as client:
            skip = [self._skip.get(key, 0) for key in keys]
            answer = client.execute_command(
                "EVAL", PEEK, len(keys), *keys, _MOST, _MOST_BYTES, *skip
            )
        messages = []
        for key, step, (count, texts) in zip(keys, steps, answer, strict=True):
            self._skip[key] = int(count)
            messages += [
                (step, *read) for text in texts if (read := _read(channel, text)) is not None
            ]
        return messages


def _read(channel: Any, text: bytes) -> tuple[str, dict[str, Any]] | None:
    try:
        message = channel.Message(json.loads(text), channel=channel)
        _, kwargs, _ = message.payload
        return (str(message.headers["task"]), kwargs) if isinstance(kwargs, dict) else None
    except (ValueError, KeyError, TypeError, AttributeError, KombuError):
        return None  # the worker that takes the message reports it
