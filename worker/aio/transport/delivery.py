"""A channel that hands the messages of a batch to their consumers, and sets aside what is no message."""

import logging
from collections import deque
from typing import Any

import redis

from worker.aio.transport.delaying import DelayingChannel
from worker.aio.transport.messages import UNREADABLE, Taken, decode, share_values
from worker.aio.transport.qos import TransportQoS

logger = logging.getLogger(__name__)


class DeliveringChannel(DelayingChannel):
    """A channel whose batches are delivered one message after the other."""

    connection: Any
    qos: TransportQoS

    def _deliver(self, taken: Taken) -> bool:
        """Hand the messages to their consumers; those that nobody may have any more go back.

        True if one was had.
        """
        left = deque(taken)
        messages = iter(decode([text for *_, text in taken]))
        returned: list[tuple[str, bytes, list[str]]] = []
        try:
            while left:
                name, tag, text = left[0]
                if not self._hand_over(name, tag, text, next(messages)):
                    returned.append((tag, text, [name]))
                left.popleft()
        finally:
            # Where a consumer raised, the messages behind it were not had either; nor was that one,
            # unless booked.
            if left and left[0][1] in self.qos._delivered:  # noqa: SLF001 - there is no public way to ask
                left.popleft()
            returned += [(tag, text, [name]) for name, tag, text in left]
            if returned:
                self.qos.give_back(returned)
        return len(returned) < len(taken)

    def _hand_over(self, name: str, tag: str, text: bytes, message: Any) -> bool:
        queue = name.rsplit(self.sep, 1)[0]
        # Between the question and now a consumer may have been cancelled, or the window made
        # smaller.
        if self.closed or queue not in self.connection._callbacks or not self.qos.can_consume():  # noqa: SLF001
            return False
        if message is UNREADABLE:
            self._set_aside(queue, tag, text)
            return True
        share_values(message)
        message["properties"]["delivery_tag"] = tag
        self._queue_cycle.rotate(queue)
        if (behind := self.goes_before(queue)) is not None:
            self._queue_cycle.rotate(behind)  # it was that one's turn, perhaps
        self.qos.moved = tag
        try:
            self.connection._deliver(message, queue)  # noqa: SLF001 - kombu's own way in
        except (redis.RedisError, OSError):
            raise
        except Exception:
            if tag in self.qos._delivered:  # noqa: SLF001 - there is no public way to ask
                raise  # its consumer had it
            self._set_aside(queue, tag, text)
        finally:
            self.qos.moved = None
        return True

    def _set_aside(self, queue: str, tag: str, text: bytes) -> None:
        # Without the error, which may show the text.
        logger.error(
            "an entry of the queue %s is no message; it is in %s", queue, self.qos.unreadable_key
        )
        self.qos.give_back([(tag, text, [self.qos.unreadable_key])])
