"""What waits in a queue of the broker, read without taking it."""

import json
from typing import Any, Final

from kombu.exceptions import KombuError
from kombu.transport import redis as _stock

from worker.aio.transport.delayed import lists_of

StockChannel: Any = _stock.Channel  # kombu's classes are only half typed

_MOST: Final = 50
"""Messages that are read at each end of a list."""
_MOST_BYTES: Final = 200_000
"""Of each list so many are read, and what the last message is longer than that."""

_PEEK: Final = """
local most, budget, answer = tonumber(ARGV[1]), tonumber(ARGV[2]) / 2, {}
local function read(items, list, first, last, step)
  local left, at = budget, first
  while at ~= last and left > 0 do
    local item = redis.call('LINDEX', list, at)
    if not item then break end
    items[#items + 1], left, at = item, left - #item, at + step
  end
  return math.abs(at - first)
end
for place, list in ipairs(KEYS) do
  local items, seen = {}, tonumber(ARGV[2 + place])
  if redis.call('LLEN', list) <= seen then seen = 0 end
  seen = seen + read(items, list, -1 - seen, -1 - seen - most, -1)
  read(items, list, 0, most, 1)
  answer[place] = {seen, items}
end
return answer
"""
"""Reads the newest messages of each list, and the next ones in the order in which they are to be taken.

KEYS: the lists. ARGV: how many to read at either end; the most bytes of each list; for each list
how many were passed. Gives for each list: how many have been passed now, counted from the oldest;
the messages.
"""


class QueuePeeker:
    """Looks through the queues of a kombu channel on Redis, a part of them each time, oldest first.

    What came last is looked at each time, so something new is seen at once unless much came with
    it.
    """

    def __init__(self) -> None:
        self._passed: dict[str, int] = {}

    def peek(self, channel: Any, queue: str) -> list[tuple[int, str, dict[str, Any]]] | None:
        """Read some messages of a queue; they stay where they are.

        Args:
            channel: Of kombu's Redis transport or ours.
            queue: The queue's name.

        Returns:
            For each message its priority, the name of its task and the task's keyword arguments;
            those that are no Celery task in JSON are left out. None: the transport is another one.

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
            passed = [self._passed.get(key, 0) for key in keys]
            answer = client.execute_command(
                "EVAL", _PEEK, len(keys), *keys, _MOST, _MOST_BYTES, *passed
            )
        found = []
        for key, step, (count, texts) in zip(keys, steps, answer, strict=True):
            self._passed[key] = int(count)
            found += [(step, *read) for text in texts if (read := _read(channel, text)) is not None]
        return found


def _read(channel: Any, text: bytes) -> tuple[str, dict[str, Any]] | None:
    try:
        message = channel.Message(json.loads(text), channel=channel)
        _, kwargs, _ = message.payload
        return (str(message.headers["task"]), kwargs) if isinstance(kwargs, dict) else None
    except (ValueError, KeyError, TypeError, AttributeError, KombuError):
        return None  # it is for those who take it to say so
