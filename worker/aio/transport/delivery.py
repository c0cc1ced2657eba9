"""Delivers the messages of a batch, and sets aside items that are not messages."""

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
        """Deliver messages. Those that may not be delivered any more go back into their queues.

        Returns:
            Whether a message was delivered.
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
            # If a consumer raised, the messages after its message were not delivered. Its message
            # was delivered if it is recorded.
            if left and left[0][1] in self.qos._delivered:  # noqa: SLF001 - kombu has no public way
                left.popleft()
            returned += [(tag, text, [name]) for name, tag, text in left]
            if returned:
                self.qos.return_or_release(returned)
        return len(returned) < len(taken)

    def _hand_over(self, name: str, tag: str, text: bytes, message: Any) -> bool:
        queue = name.rsplit(self.sep, 1)[0]
        # Since the request, a consumer may have been cancelled, or the prefetch window reduced.
        if self.closed or queue not in self.connection._callbacks or not self.qos.can_consume():  # noqa: SLF001
            return False
        if message is UNREADABLE:
            self._set_aside(queue, tag, text)
            return True
        share_values(message)
        message["properties"]["delivery_tag"] = tag
        self._queue_cycle.rotate(queue)
        if (behind := self.goes_before(queue)) is not None:
            self._queue_cycle.rotate(behind)  # the message may have taken that queue's turn
        self.qos.moved = tag
        try:
            self.connection._deliver(message, queue)  # noqa: SLF001 - kombu's own way in
        except (redis.RedisError, OSError):
            raise
        except Exception:
            if tag in self.qos._delivered:  # noqa: SLF001 - kombu has no public way
                raise  # it was delivered
            self._set_aside(queue, tag, text)
        finally:
            self.qos.moved = None
        return True

    def _set_aside(self, queue: str, tag: str, text: bytes) -> None:
        # The error may show the text, so it is not logged.
        logger.error(
            "moved an entry of %s that is not a message to %s",
            queue,
            self.qos.unreadable_key,
        )
        self.qos.give_back([(tag, text, [self.qos.unreadable_key])])

    def flush_acks(self) -> None:
        """Send the acknowledgements of this channel's messages."""
        if isinstance(self._qos, TransportQoS):
            self._qos.flush_acks()

    def flush_acks_when_due(self) -> None:
        """Send acknowledgements if there are many, or if the last batch is some time ago."""
        if isinstance(self._qos, TransportQoS):
            self._qos.flush_acks_when_due()

    def add_headers(self, message: Any, headers: dict[str, Any]) -> None:
        """Add headers to a delivered message, in case it is redelivered because this worker dies.

        Raises:
            redis.RedisError: The server cannot be reached, or refuses.
        """
        self.qos.add_headers(message, headers)
