"""What a channel has delivered and not yet seen acknowledged, with the acknowledgements of one moment sent together."""

import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from copy import deepcopy
from itertools import islice
from typing import TYPE_CHECKING, Any

import redis
from kombu.transport import redis as _stock
from kombu.transport import virtual as _virtual
from kombu.utils.json import dumps

from worker.aio import acknowledging
from worker.aio.transport_scripts import GIVE_BACK

if TYPE_CHECKING:
    from worker.aio.transport import Channel

# kombu's classes are only half typed.
StockQoS: Any = _stock.QoS
VirtualQoS: Any = _virtual.QoS

_MOST = 500
"""Tags or messages in one command at most, so that no command holds up the server for long."""
_LONG_S = 0.1
"""An acknowledgement that waited longer for the end of the turn, in seconds, shows that no hub turns any more."""
_SOON_S = 0.005
"""How soon after an acknowledgement the freed room is looked at, in seconds."""


class TransportQoS(StockQoS):
    """Stock in all that it stores. Not thread-safe, but for `ack`."""

    channel: "Channel"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._acked: deque[str] = deque()
        self._oldest_s = 0.0
        self.moved: str | None = None
        """The tag of the message that is being delivered and that the server has in its book already."""
        acknowledging.register(self)

    def room(self, *, most: int) -> int:
        """How many messages may be fetched now, `most` at most."""
        if not self.can_consume():
            return 0
        if "can_consume" in self.__dict__:
            return 1  # Celery's `worker_disable_prefetch` put its own rule there, which says yes or no
        left = self.can_consume_max_estimate()
        return most if left is None else min(left, most)

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a delivery, in the server's book as well unless it is there."""
        if delivery_tag == self.moved:
            VirtualQoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge: at the end of the hub's turn, or at once where no hub runs.

        Raises:
            redis.ConnectionError: The channel is closed, so the broker has the message back.
        """
        self._settle(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's signature
        """Put the message back to its queue, or drop it for good."""
        if requeue:
            self.flush_acks()
            super().reject(delivery_tag, requeue=True)
        else:
            self._settle(delivery_tag)

    def _settle(self, delivery_tag: str) -> None:
        if self.channel.closed:
            raise redis.ConnectionError("the channel of this message is closed; the broker gives it out again")
        now_s = time.monotonic()
        if not self._acked:
            self._oldest_s = now_s
        self._acked.append(delivery_tag)
        VirtualQoS.ack(self, delivery_tag)
        # In a warm shutdown the hub stands still, and jobs may end for minutes.
        if not self.channel.connection.cycle.nudge(_SOON_S) or now_s - self._oldest_s > _LONG_S:
            self.flush_acks()

    def flush_acks(self) -> None:
        """Send the acknowledgements. What could not be sent is kept for the next time.

        Raises:
            redis.RedisError: They could not be sent.
        """
        while self._acked:
            tags = list(islice(self._acked, _MOST))
            with self.pipe_or_acquire() as pipe:
                # One transaction: an entry without its index line would stay for ever.
                pipe.zrem(self.unacked_index_key, *tags)
                pipe.hdel(self.unacked_key, *tags)
                pipe.execute()
            for _ in tags:
                with suppress(IndexError):  # a signal handler may have flushed in between
                    self._acked.popleft()

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Give back what was taken too long ago, by whomever."""
        self.flush_acks()
        super().restore_visible(*args, **kwargs)

    def restore_unacked(self, client: Any = None) -> None:
        """Give back all that was delivered and not acknowledged, in the order in which it came."""
        with suppress(redis.RedisError):
            self.flush_acks()
        lists: dict[tuple[Any, Any], list[str]] = {}
        found = []
        for tag, message in self._delivered.items():
            payload = deepcopy(message._raw)  # noqa: SLF001 - what kombu stores as well
            info = message.delivery_info
            with suppress(KeyError):
                payload["headers"]["redelivered"] = True
                payload["properties"]["delivery_info"]["redelivered"] = True
            route = (info.get("exchange"), info.get("routing_key"))
            if route not in lists:
                lists[route] = self.channel._lookup(*route)  # noqa: SLF001 - as in kombu's own restoring
            priority = self.channel._get_message_priority(payload)  # noqa: SLF001
            keys = [self.channel._q_for_pri(queue, priority) for queue in lists[route]]  # noqa: SLF001
            found.append((tag, dumps(payload), keys))  # type: ignore[no-untyped-call, unused-ignore]
        self.give_back(found, client=client)
        self._delivered.clear()

    def give_back(self, messages: Iterable[tuple[str, Any, list[str]]], *, client: Any = None) -> None:
        """Put messages back where they are taken next, in their order.

        Args:
            messages: For each its tag, its text and the lists that it goes to, without the global prefix.
            client: Default: the channel's.
        """
        left = list(messages)
        while left:
            part, left = left[-_MOST:], left[:-_MOST]
            prefix = self.channel.global_keyprefix
            keys = [prefix + self.unacked_key, prefix + self.unacked_index_key]
            arguments: list[Any] = []
            for tag, text, names in reversed(part):
                places = []
                for name in names:
                    if prefix + name not in keys:
                        keys.append(prefix + name)
                    places.append(keys.index(prefix + name) + 1)
                arguments += [tag, text, len(places), *places]
            with self.channel.conn_or_acquire(client) as connected:
                connected.execute_command("EVAL", GIVE_BACK, len(keys), *keys, *arguments)
