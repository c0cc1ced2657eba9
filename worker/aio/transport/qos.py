"""Records a channel's unacknowledged messages, and sends acknowledgements in batches."""

import logging
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Any, Final

import redis
from kombu.transport import virtual as _virtual
from kombu.utils.json import dumps

from worker.aio.transport import unacked
from worker.aio.transport.restoring import RestoringQoS, mark_redelivered, payload_of
from worker.aio.transport.scripts import FORGET, UPDATE_ENTRY

logger = logging.getLogger(__name__)

VirtualQoS: Any = _virtual.QoS  # kombu's classes are only half typed

_BATCH: Final = 500
"""The most tags in one command, so that no command holds up the server for long."""
_SENT_AT_ONCE: Final = 100
"""This many acknowledgements are sent without delay; fewer wait a moment for others."""
_HUB_STOPPED_S: Final = 0.1
"""If an acknowledgement waits longer than this for the end of a turn, the hub no longer runs."""
_INTERVAL_S: Final = 0.01
"""The time between two batches of acknowledgements, unless `_SENT_AT_ONCE` of them wait."""
_REFUSED_PAUSE_S: Final = 1.0
"""The pause after the server has refused acknowledgements."""


class TransportQoS(RestoringQoS):
    """kombu's record of deliveries, with batched acknowledgements.

    Only `ack`, `held_tags`, `recover` and `restore_old` may be called from other threads.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._acked: deque[str] = deque()
        """The acknowledgements that the server has not confirmed."""
        self._sent = 0
        """How many of these, the oldest ones, were sent by the taking connection."""
        self._round = 0
        """Counts how often sent acknowledgements were given up, to ignore late replies to them."""
        self._oldest_s = 0.0
        self._sent_at_s = float("-inf")
        self._refused_until_s = 0.0
        self.moved: str | None = None
        """The tag of the message being delivered, if the server has its entry already."""
        self.keeper = None
        self.recover_at_s = 0.0
        unacked.of_process.register(self)

    def held_tags(self) -> Iterable[str]:
        """Return the tags of delivered messages whose acknowledgement is not confirmed yet."""
        dirty = self._dirty.copy()
        return [*(tag for tag in tuple(self._delivered) if tag not in dirty), *self._acked.copy()]

    def can_consume(self) -> bool:
        """Return whether there is room for another message."""
        left = self.can_consume_max_estimate()
        return left is None or left > 0

    def can_consume_max_estimate(self) -> int | None:
        """Return how many more messages there is room for; None for any number.

        Jobs that outlive their channel take up room as well.
        """
        left: int | None = super().can_consume_max_estimate()
        return left if left is None or self.keeper is None else max(left - self.keeper.detached, 0)

    def room(self, *, most: int, coming: int = 0) -> int:
        """Return how many messages may be taken now.

        Args:
            most: The highest number to return.
            coming: How many received messages are not delivered yet.
        """
        if not self.can_consume():
            return 0
        if "can_consume" in self.__dict__:
            # Celery's `worker_disable_prefetch` replaced the method by one that returns a boolean.
            return int(not coming)
        if self.channel.connection.cycle.hub is None:
            # As in kombu, each call of `drain_events` delivers one event. Its caller may never call
            # again, and further messages would stay unacknowledged.
            return int(not coming)
        left = self.can_consume_max_estimate()
        return most if left is None else max(min(left - coming, most), 0)

    def append(self, message: Any, delivery_tag: str) -> None:
        """Record a delivery, also on the server unless its entry is there already."""
        if delivery_tag == self.moved:
            VirtualQoS.append(self, message, delivery_tag)
        else:
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message at the end of the hub's turn, or of a turn soon after it.

        If no hub runs, the message is acknowledged at once.

        Raises:
            redis.ConnectionError: The channel is closed, and the broker has the message back.
        """
        self._settle(delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's signature
        """Put the message back into its queue, or drop it for good."""
        if not requeue:
            self._settle(delivery_tag)
        elif self.channel.closed and self.keeper is not None:
            self.keeper.release([delivery_tag])
            self._forget(delivery_tag)
        else:
            try:
                self.flush_acks()
                super().reject(delivery_tag, requeue=True)
            except redis.ResponseError as exc:
                # A full server refuses commands that need memory. The message stays unacknowledged
                # there, and its lease ends.
                logger.warning(
                    "the broker takes back no message now (%s); it redelivers this one later", exc
                )
                if self.keeper is not None:
                    self.keeper.release([delivery_tag])
                VirtualQoS.ack(self, delivery_tag)

    def _settle(self, delivery_tag: str) -> None:
        if self.channel.closed:
            if self.keeper is None:
                raise redis.ConnectionError(
                    "the channel of this message is closed; the broker delivers it again"
                )
            self.keeper.acknowledge([delivery_tag])
            self._forget(delivery_tag)
            return
        now_s = time.monotonic()
        if len(self._acked) <= self._sent:
            self._oldest_s = now_s
        self._acked.append(delivery_tag)
        VirtualQoS.ack(self, delivery_tag)
        wait_s = self._sent_at_s + _INTERVAL_S - now_s
        cycle = self.channel.connection.cycle
        turns = cycle.nudge(wait_s) if wait_s > 0 else cycle.hub is not None
        # During a warm shutdown, which may last minutes, jobs end but the hub does not run.
        if not turns or now_s - self._oldest_s > _HUB_STOPPED_S:
            try:
                self.flush_acks()
            except (redis.RedisError, OSError) as exc:
                # The acknowledgement is sent with the next one, or when the channel closes. Celery
                # would log an error with a traceback.
                logger.warning(
                    "cannot acknowledge now (%s); %d acknowledgements wait", exc, len(self._acked)
                )

    def _forget(self, delivery_tag: str) -> None:
        # While the channel closes, the message must be removed from the messages to put back.
        # Afterwards it is not recorded any more.
        if delivery_tag in self._delivered:
            VirtualQoS.ack(self, delivery_tag)

    def flush_acks_when_due(self) -> None:
        """Send the acknowledgements if there are many, or if the last batch is some time ago.

        Raises:
            redis.ConnectionError: The acknowledgements could not be sent.
        """
        now_s = time.monotonic()
        unsent = len(self._acked) - self._sent
        if unsent <= 0 or self.are_acks_refused:
            return
        if unsent >= _SENT_AT_ONCE or now_s - self._sent_at_s >= _INTERVAL_S:
            try:
                self.flush_acks(beside=True)
            except redis.ResponseError as exc:
                self._note_refusal(exc)

    @property
    def are_acks_refused(self) -> bool:
        """Whether the server refused acknowledgements a moment ago."""
        return time.monotonic() < self._refused_until_s

    def _note_refusal(self, exc: redis.ResponseError) -> None:
        # The server's memory or disk is full, for instance. The worker goes on, and keeps the
        # acknowledgements and leases.
        self._refused_until_s = time.monotonic() + _REFUSED_PAUSE_S
        logger.warning("the broker refuses acknowledgements (%s); %d wait", exc, len(self._acked))

    def flush_acks(self, *, beside: bool = False) -> None:
        """Send the acknowledgements, and keep those that could not be sent for the next time.

        Args:
            beside: Send them by the taking connection, if it is open, and do not wait until the
                server confirms them. Only for the thread that takes messages.

        Raises:
            redis.RedisError: The acknowledgements could not be sent.
        """
        if beside and self._send_beside():
            return
        self.note_unanswered()
        while self._acked:
            tags = list(islice(self._acked, _BATCH))
            with self.channel.conn_or_acquire() as client:
                client.execute_command(*self._forgetting(tags))
            self._drop(len(tags))
            self._oldest_s = self._sent_at_s = time.monotonic()

    def _send_beside(self) -> bool:
        while len(self._acked) > self._sent and not self.are_acks_refused:
            tags = list(islice(self._acked, self._sent, self._sent + _BATCH))
            self._sent += len(tags)
            note = partial(self._note_reply, len(tags), self._round)
            try:
                if not self.channel.send_beside(note, *self._forgetting(tags)):
                    return False
            except (redis.RedisError, OSError):
                self.note_unanswered()
                raise
            self._oldest_s = self._sent_at_s = time.monotonic()
        return True

    def _note_reply(self, count: int, round_sent: int, reply: Any) -> None:
        if round_sent != self._round:
            return  # these acknowledgements were sent again
        if isinstance(reply, redis.ResponseError):
            self.note_unanswered()
            self._note_refusal(reply)
        else:
            self._sent -= count
            self._drop(count)

    def note_unanswered(self) -> None:
        """Have unconfirmed acknowledgements sent again, because their replies will not be read."""
        self._sent = 0
        self._round += 1

    def _forgetting(self, tags: list[str]) -> tuple[Any, ...]:
        prefix = self.channel.global_keyprefix
        keys = [prefix + key for key in (self.unacked_key, self.unacked_index_key, self.leases_key)]
        return ("EVAL", FORGET, len(keys), *keys, *tags)

    def _drop(self, count: int) -> None:
        for _ in range(count):
            with suppress(IndexError):  # a signal handler may have flushed in between
                self._acked.popleft()

    def add_headers(self, message: Any, headers: dict[str, Any]) -> None:
        """Add headers to a message's entry on the server.

        The message has them when it is redelivered, for instance because this worker has died.

        Raises:
            redis.RedisError: The headers could not be written.
        """
        payload, info = payload_of(message), message.delivery_info
        payload["headers"] = {**payload["headers"], **headers}
        entry = dumps([payload, info.get("exchange"), info.get("routing_key")])  # type: ignore[no-untyped-call, unused-ignore]
        key = self.channel.global_keyprefix + self.unacked_key
        with self.channel.conn_or_acquire() as client:
            client.execute_command("EVAL", UPDATE_ENTRY, 1, key, message.delivery_tag, entry)

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        """Put back the messages of dead workers, and those older than the visibility timeout."""
        try:
            self.flush_acks()
        except redis.ResponseError as exc:
            logger.warning("the broker redelivers nothing now (%s); trying again soon", exc)
        else:
            self.restore_old(*args, **kwargs)

    def restore_old(self, *args: Any, **kwargs: Any) -> None:
        """Do the same as `restore_visible`, without sending acknowledgements first."""
        try:
            self.recover()
            super().restore_visible(*args, **kwargs)
        except redis.ResponseError as exc:
            logger.warning("the broker redelivers nothing now (%s); trying again soon", exc)

    def return_or_release(self, messages: list[tuple[str, Any, list[str]]]) -> None:
        """Put messages back that were not delivered; see `give_back`.

        If the server does not take them back, their leases are released, and any worker puts them
        back later.

        Raises:
            redis.RedisError: The messages could not be put back, and there are no leases.
            OSError: As above.
        """
        try:
            self.give_back(messages)
        except (redis.RedisError, OSError) as exc:
            if self.keeper is None:
                raise
            logger.warning(
                "cannot put %d messages back now (%s); releasing their leases", len(messages), exc
            )
            self.keeper.release(tag for tag, *_ in messages)

    # -- the end of a channel

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Put back, once, all unacknowledged messages except those whose jobs run on."""
        keeper = self.keeper
        left: list[str] = []
        if keeper is not None:
            # This acknowledges the messages of jobs that have ended.
            running = unacked.of_process.tags_that_run_on(self.held_tags())
            keeper.acknowledge(list(self._acked))
            self._acked.clear()
            self.note_unanswered()
            kept = [tag for tag in self.held_tags() if tag in running]
            keeper.detach(kept)
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
                "cannot put %d messages back now (%s); releasing their leases", len(left), exc
            )
            keeper.release(left)

    def restore_unacked(self, client: Any = None) -> None:
        """Put back all unacknowledged messages, in the order in which they came."""
        with suppress(redis.RedisError):
            self.flush_acks()
        back = []
        for tag, message in self._delivered.items():
            payload, info = payload_of(message), message.delivery_info
            mark_redelivered(payload)
            lists = self._lists_of(payload, info.get("exchange"), info.get("routing_key"))
            back.append((tag, dumps(payload), lists))  # type: ignore[no-untyped-call, unused-ignore]
        self.give_back(back, client=client)
        self._delivered.clear()
