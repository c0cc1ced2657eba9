"""What a channel has delivered and not yet seen acknowledged, with the acknowledgements of one moment sent together."""

import logging
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from copy import deepcopy
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Protocol

import redis
from kombu.transport import redis as _stock
from kombu.transport import virtual as _virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads

from worker.aio.transport import acknowledging, holding
from worker.aio.transport.leases import LeaseKeeper
from worker.aio.transport.scripts import EXPIRED, FORGET, GIVE_BACK, REBOOK

logger = logging.getLogger(__name__)

# kombu's classes are only half typed.
StockQoS: Any = _stock.QoS
VirtualQoS: Any = _virtual.QoS

_MOST = 500
"""Tags or messages in one command at most, so that no command holds up the server for long."""
_MANY = 100
"""So many acknowledgements are sent at once; fewer wait a moment for more."""
_LONG_S = 0.1
"""An acknowledgement that waited longer for the end of the turn, in seconds, shows that no hub turns any more."""
_APART_S = 0.01
"""For how long acknowledgements wait for others after some were sent, in seconds.

The first ones do not wait.
"""
_REFUSED_PAUSE_S = 1.0
"""How long a server that refuses acknowledgements is left alone, in seconds."""
_LOOK = 50
"""Messages of dead workers that are looked at in one step."""

DEATHS = "deaths"
"""The header that counts how often a message came again because its worker had died."""
DIED_S = "died_s"
"""The header that tells when the first of them was last heard of, in seconds since 1970 by the server's clock."""


class Channel(Protocol):
    """What is needed of a channel beside what kombu's has."""

    closed: bool
    connection: Any
    global_keyprefix: str
    conn_or_acquire: Any
    _lookup: Any
    _q_for_pri: Any
    _get_message_priority: Any

    @property
    def recover_every_s(self) -> float:
        """How often to look for what dead workers had, in seconds."""

    def keep_leases(self) -> LeaseKeeper | None:
        """See that what this channel takes is renewed."""


class TransportQoS(StockQoS):
    """Stock in all that it stores. Not thread-safe, but for `ack`."""

    channel: Channel

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._acked: deque[str] = deque()
        self._oldest_s = 0.0
        self._sent_at_s = float("-inf")
        self._refused_until_s = 0.0
        self.moved: str | None = None
        """The tag of the message that is being delivered and that the server has in its book already."""
        self.keeper: LeaseKeeper | None = None
        """Renews the leases; None while the channel takes nothing, or where there are no leases."""
        self.recover_at_s = 0.0
        acknowledging.register(self)

    @property
    def leases_key(self) -> str:
        """The name of the leases, without the global prefix."""
        return f"{self.unacked_key}.leases"

    @property
    def pulse_key(self) -> str:
        """The name of the pulse, without the global prefix."""
        return f"{self.unacked_key}.pulse"

    @property
    def unreadable_key(self) -> str:
        """The name of the list for what is no message, without the global prefix."""
        return f"{self.unacked_key}.unreadable"

    def held_tags(self) -> Iterable[str]:
        """Name what was delivered and whose acknowledgement has not arrived yet.

        From any thread.
        """
        dirty = self._dirty.copy()
        return [*(tag for tag in tuple(self._delivered) if tag not in dirty), *self._acked.copy()]

    def can_consume(self) -> bool:
        """Whether there is room for another message."""
        left = self.can_consume_max_estimate()
        return left is None or left > 0

    def can_consume_max_estimate(self) -> int | None:
        """How many more messages there is room for, beside those whose jobs outlive their channel.

        None: any number.
        """
        left: int | None = super().can_consume_max_estimate()
        return left if left is None or self.keeper is None else max(left - self.keeper.carried, 0)

    def room(self, *, most: int, coming: int = 0) -> int:
        """How many messages may be fetched now, `most` at most, when so many more are about to be delivered."""
        if not self.can_consume():
            return 0
        if "can_consume" in self.__dict__:
            return int(
                not coming
            )  # Celery's `worker_disable_prefetch` put its own rule there, which says yes or no
        if self.channel.connection.cycle.hub is None:
            # Who drains by hand wants one event a call, as with kombu, and may go away with the
            # others booked.
            return int(not coming)
        left = self.can_consume_max_estimate()
        return most if left is None else max(min(left - coming, most), 0)

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a delivery, in the server's book as well unless it is there."""
        if delivery_tag == self.moved:
            VirtualQoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge: at the end of the hub's turn, or of one soon after it.

        At once where no hub runs.

        Raises:
            redis.ConnectionError: The channel is closed, and the broker has the message back.
        """
        self._settle(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's signature
        """Put the message back to its queue, or drop it for good."""
        if not requeue:
            self._settle(delivery_tag)
        elif self.channel.closed and self.keeper is not None:
            self.keeper.release([delivery_tag])
            self._hold_no_more(delivery_tag)
        else:
            try:
                self.flush_acks()
                super().reject(delivery_tag, requeue=True)
            except redis.ResponseError as exc:
                # A server without room refuses what would make it none. The message stays booked;
                # its lease ends.
                logger.warning(
                    "the broker takes no message back now (%s); it gives this one out again later",
                    exc,
                )
                if self.keeper is not None:
                    self.keeper.release([delivery_tag])
                VirtualQoS.ack(self, delivery_tag)

    def _settle(self, delivery_tag: str) -> None:
        if self.channel.closed:
            if self.keeper is None:
                raise redis.ConnectionError(
                    "the channel of this message is closed; the broker gives it out again"
                )
            self.keeper.acknowledge([delivery_tag])
            self._hold_no_more(delivery_tag)
            return
        now_s = time.monotonic()
        if not self._acked:
            self._oldest_s = now_s
        self._acked.append(delivery_tag)
        VirtualQoS.ack(self, delivery_tag)
        wait_s = self._sent_at_s + _APART_S - now_s
        cycle = self.channel.connection.cycle
        turns = cycle.nudge(wait_s) if wait_s > 0 else cycle.hub is not None
        # In a warm shutdown the hub stands still, and jobs may end for minutes.
        if not turns or now_s - self._oldest_s > _LONG_S:
            try:
                self.flush_acks()
            except (redis.RedisError, OSError) as exc:
                # It is kept, and sent with the next one or when the channel closes. Celery would
                # show a traceback.
                logger.warning(
                    "cannot acknowledge now (%s); %d acknowledgements wait", exc, len(self._acked)
                )

    def _hold_no_more(self, delivery_tag: str) -> None:
        # In the moment of the channel's end it is still to be given back; later it is not held.
        if delivery_tag in self._delivered:
            VirtualQoS.ack(self, delivery_tag)

    def flush_acks_when_due(self) -> None:
        """Send the acknowledgements if they are many, or if none were sent for a few milliseconds.

        Raises:
            redis.ConnectionError: They could not be sent.
        """
        now_s = time.monotonic()
        if not self._acked or now_s < self._refused_until_s:
            return
        if len(self._acked) >= _MANY or now_s - self._sent_at_s >= _APART_S:
            try:
                self.flush_acks()
            except redis.ResponseError as exc:
                # Its memory or disk is full, say. That ends no worker: they are kept, and their
                # leases with them.
                self._refused_until_s = now_s + _REFUSED_PAUSE_S
                logger.warning(
                    "the broker refuses acknowledgements (%s); %d wait", exc, len(self._acked)
                )

    def flush_acks(self) -> None:
        """Send the acknowledgements. What could not be sent is kept for the next time.

        Raises:
            redis.RedisError: They could not be sent.
        """
        while self._acked:
            tags = list(islice(self._acked, _MOST))
            prefix = self.channel.global_keyprefix
            keys = [
                prefix + key for key in (self.unacked_key, self.unacked_index_key, self.leases_key)
            ]
            with self.channel.conn_or_acquire() as client:
                client.execute_command("EVAL", FORGET, len(keys), *keys, *tags)
            for _ in tags:
                with suppress(IndexError):  # a signal handler may have flushed in between
                    self._acked.popleft()
            self._oldest_s = self._sent_at_s = time.monotonic()

    def rebook(self, message: Any, headers: dict[str, Any]) -> None:
        """Write headers into the server's book.

        The message has them if it comes again, as when this worker dies.

        Raises:
            redis.RedisError: They could not be written.
        """
        payload, info = _payload_of(message), message.delivery_info
        payload["headers"] = {**payload["headers"], **headers}
        entry = dumps([payload, info.get("exchange"), info.get("routing_key")])  # type: ignore[no-untyped-call, unused-ignore]
        key = self.channel.global_keyprefix + self.unacked_key
        with self.channel.conn_or_acquire() as client:
            client.execute_command("EVAL", REBOOK, 1, key, message.delivery_tag, entry)

    def _remove_from_indices(self, delivery_tag: str, pipe: Any = None) -> Any:
        return super()._remove_from_indices(delivery_tag, pipe).zrem(self.leases_key, delivery_tag)

    # -- messages of dead workers

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Give back what dead workers had, and what was taken too long ago, by whomever."""
        try:
            self.flush_acks()
            self.recover()
            super().restore_visible(*args, **kwargs)
        except redis.ResponseError as exc:
            logger.warning("the broker gives nothing back now (%s)", exc)

    def recover(self) -> None:
        """Give back what dead workers had, unless that was looked for a moment ago."""
        keeper = self.channel.keep_leases()
        if keeper is None or time.monotonic() < self.recover_at_s:
            return
        self.recover_at_s = time.monotonic() + self.channel.recover_every_s / 2
        dead = freed = 0
        while True:
            now, found = self._look_for_expired(keeper)
            if not found:
                break
            seen = [
                float(lease) - keeper.lease_s if float(lease) > 0 else None for *_, lease in found
            ]
            freed, dead = freed + seen.count(None), dead + len(found) - seen.count(None)
            back = [
                self._as_given_back(tag, entry, seen_s=at_s)
                for (tag, entry, _), at_s in zip(found, seen, strict=True)
            ]
            if not self.give_back(back, before=now):
                break  # all were renewed meanwhile, or somebody was quicker
        if dead:
            logger.warning("%d messages of workers that died are given out again", dead)
        if freed:
            logger.info("%d messages that went down with a connection are given out again", freed)

    def _look_for_expired(self, keeper: LeaseKeeper) -> tuple[str, list[tuple[str, bytes, bytes]]]:
        prefix = self.channel.global_keyprefix
        keys = [prefix + key for key in (self.pulse_key, self.leases_key, self.unacked_key)]
        with self.channel.conn_or_acquire() as client:
            now, *found = client.execute_command(
                "EVAL", EXPIRED, len(keys), *keys, keeper.patience_s, _LOOK
            )
        return bytes_to_str(now), [  # type: ignore[no-untyped-call, unused-ignore]
            (found[at].decode(), found[at + 1], found[at + 2]) for at in range(0, len(found), 3)
        ]

    def _as_given_back(
        self, tag: str, entry: bytes, *, seen_s: float | None
    ) -> tuple[str, Any, list[str]]:
        """Make a message ready to go back; `seen_s` says when its dead worker was last heard of."""
        try:
            payload, exchange, routing_key = loads(bytes_to_str(entry))  # type: ignore[no-untyped-call, unused-ignore]
        except (TypeError, ValueError):
            logger.error(  # noqa: TRY400 - the error would show it
                "an entry of %s is no message; it is in %s", self.unacked_key, self.unreadable_key
            )
            return tag, entry, [self.unreadable_key]
        _mark_redelivered(payload)
        headers = payload.get("headers")
        # A worker that died while the message waited for its instant did not die of it.
        if (
            seen_s is not None
            and isinstance(headers, dict)
            and not waits(headers.get("eta"), seen_s)
        ):
            deaths = headers.get(DEATHS)
            headers[DEATHS] = (deaths if isinstance(deaths, int) else 0) + 1
            headers[DIED_S] = _earlier(headers.get(DIED_S), round(seen_s, 3))
        return tag, dumps(payload), self._lists_of(payload, exchange, routing_key)  # type: ignore[no-untyped-call, unused-ignore]

    def _lists_of(self, payload: Any, exchange: Any, routing_key: Any) -> list[str]:
        """Name the lists that a message goes back to, as in kombu's own restoring."""
        priority = self.channel._get_message_priority(payload)  # noqa: SLF001
        queues = self.channel._lookup(exchange, routing_key)  # noqa: SLF001
        # Where the bindings are gone, the queue of the routing key's name is the best guess; none
        # would lose it.
        return [self.channel._q_for_pri(queue, priority) for queue in queues or [routing_key]]  # noqa: SLF001

    # -- the end of a channel

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Give back what was delivered and not acknowledged, but for what runs on; once."""
        keeper = self.keeper
        left: list[str] = []
        if keeper is not None:
            running = holding.tags_that_run_on(self.held_tags())  # acknowledges what has ended
            keeper.acknowledge(list(self._acked))
            self._acked.clear()
            kept = [tag for tag in self.held_tags() if tag in running]
            keeper.carry(kept)
            for tag in kept:
                self._delivered.pop(tag, None)
            keeper.leave(self)
            left = list(self.held_tags())
        try:
            super().restore_unacked_once(stderr)
        except (redis.RedisError, OSError) as exc:
            self._delivered.clear()
            if keeper is None:
                raise
            logger.warning(
                "%d messages cannot be given back now (%s); they are let go instead", len(left), exc
            )
            keeper.release(left)

    def restore_unacked(self, client: Any = None) -> None:
        """Give back all that was delivered and not acknowledged, in the order in which it came."""
        with suppress(redis.RedisError):
            self.flush_acks()
        found = []
        for tag, message in self._delivered.items():
            payload, info = _payload_of(message), message.delivery_info
            _mark_redelivered(payload)
            found.append(
                (
                    tag,
                    dumps(payload),  # type: ignore[no-untyped-call, unused-ignore]
                    self._lists_of(payload, info.get("exchange"), info.get("routing_key")),
                )
            )
        self.give_back(found, client=client)
        self._delivered.clear()

    def give_back(
        self,
        messages: Iterable[tuple[str, Any, list[str]]],
        *,
        client: Any = None,
        before: str = "",
    ) -> int:
        """Put messages back where they are taken next, in their order.

        Args:
            messages: For each its tag, its text and the lists that it goes to, without the global
                prefix.
            client: Default: the channel's.
            before: Only those whose lease ended by this instant of the server's clock, in seconds.

        Returns:
            How many there were.
        """
        left = list(messages)
        given = 0
        while left:
            part, left = left[-_MOST:], left[:-_MOST]
            prefix = self.channel.global_keyprefix
            names = (self.unacked_key, self.unacked_index_key, self.leases_key, self.unreadable_key)
            keys = [prefix + name for name in names]
            arguments: list[Any] = [before]
            for tag, text, lists in reversed(part):
                places = []
                for name in lists:
                    if prefix + name not in keys:
                        keys.append(prefix + name)
                    places.append(keys.index(prefix + name) + 1)
                arguments += [tag, text, len(places), *places]
            with self.channel.conn_or_acquire(client) as connected:
                given += connected.execute_command("EVAL", GIVE_BACK, len(keys), *keys, *arguments)
        return given


def _payload_of(message: Any) -> Any:
    """Give what a message was made of, with the tag that its producer gave it."""
    payload = deepcopy(message._raw)  # noqa: SLF001 - what kombu stores as well
    with suppress(KeyError):
        payload["properties"]["delivery_tag"] = (
            message.delivery_tag.rpartition("@")[0] or message.delivery_tag
        )
    return payload


def instant_of(eta: Any) -> datetime | None:
    """Read a message's instant; nothing where it has none, or none that can be read."""
    try:
        instant = datetime.fromisoformat(eta)
    except (TypeError, ValueError):
        return None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def waits(eta: Any, at_s: float) -> bool:
    """Whether a message waits for its instant at a moment, in seconds since 1970."""
    instant = instant_of(eta)
    return instant is not None and instant.timestamp() > at_s


def _earlier(told: Any, at_s: float) -> float:
    """Give the earlier of two moments, in seconds since 1970.

    The first is a stranger's and may be anything.
    """
    return min(float(told), at_s) if type(told) in {int, float} and 0 < told < at_s else at_s


def _mark_redelivered(payload: Any) -> None:
    with suppress(KeyError, TypeError):
        payload["headers"]["redelivered"] = True
        payload["properties"]["delivery_info"]["redelivered"] = True
