"""Defines the transport's channel: its connections, its consumers, its leases, how it closes."""

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import Any, Final

import redis

from worker.aio.connections import BlockingTcpConnection, BlockingTlsConnection
from worker.aio.transport import unacked
from worker.aio.transport.leases import LeaseKeeper, connecting
from worker.aio.transport.messages import Message
from worker.aio.transport.qos import TransportQoS
from worker.aio.transport.sharing import QueueSharing
from worker.aio.transport.taking import TakingChannel

logger = logging.getLogger(__name__)

LEASE_S: Final = 60.0
RECOVER_S: Final = 5.0
"""The longest time between two looks for messages of dead workers, in seconds."""


class Channel(TakingChannel):
    """A channel that takes messages in batches, and renews the leases of those that it holds."""

    QoS = TransportQoS
    Message = Message
    connection_class: Any = BlockingTcpConnection
    connection_class_ssl: Any = BlockingTlsConnection
    from_transport_options = (*TakingChannel.from_transport_options, "lease_s")
    lease_s: float = LEASE_S
    """How long a worker may be silent before others take over its messages, in seconds.

    With 0, only kombu's visibility timeout counts.
    """
    keyprefix_fanout: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._commands: redis.Redis | None = None
        self._no_ack_tags: set[str] = set()
        self.sharing = QueueSharing(self)
        super().__init__(*args, **kwargs)
        # kombu has opened a connection that only consumers use. A channel that only publishes does
        # not need it.
        if self._async_pool is not None:
            self._async_pool.disconnect()

    # -- one client

    # kombu's own cached properties run two functions and take two locks at each read, and these two
    # are read a dozen times for each message.

    @cached_property
    def client(self) -> Any:
        """The client of the taking connection."""
        return self._create_client(asynchronous=True)

    @cached_property
    def subclient(self) -> Any:
        """The subscriptions to fanout queues, on a connection of their own."""
        return self._create_client(asynchronous=True).pubsub()

    def _get_pool(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's signature
        """Return the connection pool; all channels of a `Connection` share the one for commands."""
        if asynchronous:
            return super()._get_pool(asynchronous=True)
        transport = self.connection
        if transport.commands is None:
            transport.commands = super()._get_pool()
        # kombu's own `_get_pool` does this, too.
        self.keyprefix_fanout = self.keyprefix_fanout.format(db=self._connparams()["db"])
        return transport.commands

    def _disconnect_pools(self) -> None:
        if self.connection is not None and self.connection.commands is self._pool:
            self.connection.commands = None
        super()._disconnect_pools()

    def _create_client(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's signature
        if asynchronous:  # such a client has a connection of its own
            return super()._create_client(asynchronous=True)
        if self._commands is None or self._commands.connection_pool is not self.pool:
            self._commands = super()._create_client()
        return self._commands

    # -- consumers

    def basic_consume(
        self,
        queue: str,
        no_ack: bool,  # noqa: FBT001 - kombu's
        callback: Any,
        consumer_tag: str,
        **kwargs: Any,
    ) -> Any:
        """Consume from a queue, in kombu's own way if the consumer does not acknowledge."""
        if no_ack and queue not in self._fanout_queues:
            self._no_ack_tags.add(consumer_tag)
            if self.takes:
                self._drain_reply()
                self._forget_connection()
                self.takes = False
        elif queue not in self._fanout_queues:
            self.sharing.add(queue)
        return super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)

    def _basic_cancel(self, consumer_tag: str) -> Any:
        cancelled = super()._basic_cancel(consumer_tag)
        # Before a worker takes jobs, it may greet other workers on this channel and read their
        # answers without acknowledging. An outstanding BRPOP can only bring more of those answers,
        # because no other queue is consumed yet.
        if consumer_tag in self._no_ack_tags:
            self._no_ack_tags.discard(consumer_tag)
            if not self._no_ack_tags and not self.active_queues and self.ack_emulation:
                self._in_poll = None
                self._forget_connection()
                self.takes = True
                self.hints.look_everywhere()
        # After the last cancel, an outstanding reply would stay unread during a warm shutdown. If
        # a signal interrupted the reading of a reply, the interrupted reader goes on.
        elif not self.active_queues and not self._reading:
            self._drain_reply()
        return cancelled

    def take_urgent_only(self, queue: str, below: int | None) -> None:
        """Leave a queue's messages of this priority, and of less urgent ones, in the broker.

        With None, all messages are taken again.
        """
        self.limits.take_urgent_only(queue, below)
        self.hints.look_everywhere()

    def take_at_most(self, queue: str, more: Callable[[], int]) -> None:
        """Take at most as many messages of a queue as `more` returns; each request calls it."""
        self.limits.take_at_most(queue, more)

    # -- leases

    @property
    def recover_every_s(self) -> float:
        """How often to look for messages of dead workers, in seconds."""
        return min(RECOVER_S, self.lease_s / 4) if self.lease_s > 0 else RECOVER_S

    def recover(self) -> None:
        """Put back the messages of dead workers."""
        if self.takes and self.active_queues:
            self.qos.recover()

    def share(self) -> None:
        """Put the waiting messages in an order that serves tenants in turn."""
        if self.takes:
            self.sharing.share()

    def keep_leases(self) -> LeaseKeeper | None:
        """Start renewing the leases of this channel's messages."""
        if self.lease_s <= 0:
            return None
        keeper = self.qos.keeper
        if keeper is None:
            lease_s = (
                min(self.lease_s, self.visibility_timeout)
                if self.visibility_timeout > 0
                else self.lease_s
            )
            names = (
                self.unacked_key,
                self.unacked_index_key,
                self.qos.leases_key,
                self.qos.pulse_key,
            )
            first, second, third, fourth = (self.global_keyprefix + name for name in names)
            client = self.connection.client
            key = (client.hostname, client.port, client.virtual_host, client.userid, first, lease_s)
            params = self._connparams()
            keeper = unacked.of_process.keeper(
                key,
                lambda: LeaseKeeper(
                    connecting(params, lease_s),
                    lease_s=lease_s,
                    keys=(first, second, third, fourth),
                ),
            )
            self.qos.keeper = keeper
            keeper.join(self.qos)
        return keeper

    # -- closing

    def close(self) -> None:
        """Close the channel; its unacknowledged messages go back to their queues."""
        if not self.closed:
            self._drain_reply()
            try:
                self.flush_acks()
            except (redis.RedisError, OSError) as exc:
                if self.qos.keeper is None:
                    logger.warning(
                        "cannot acknowledge at the end (%s); the broker redelivers the messages",
                        exc,
                    )
        super().close()
        self._close_reopened()

    def abandon(self) -> None:
        """End a channel that cannot be closed properly.

        Its messages go back to their queues when the server is back.
        """
        self.closed = True
        if self.connection is not None:
            self.connection.cycle.discard(self)
        if self._qos is not None:
            with suppress(redis.RedisError, OSError, AttributeError):
                self._qos.restore_unacked_once()
        self._close_reopened()

    def _close_reopened(self) -> None:
        """Close the connections that kombu's `close` opens again, to put messages back."""
        for name in ("client", "subclient"):
            if (client := self.__dict__.get(name)) is not None:
                client.connection_pool.disconnect()
        self._disconnect_pools()

    def _connparams(self, asynchronous: bool = False) -> Any:  # noqa: FBT001, FBT002 - kombu's signature
        # kombu forgets the address of a connection that it closes, and would fail on None.
        if self.connection is None or self.connection.client is None:
            raise redis.ConnectionError("this channel's connection is closed")
        return super()._connparams(asynchronous=asynchronous)

    def _drain_reply(self) -> None:
        """Wait for the outstanding reply, and put its messages back."""
        if not self.takes:
            return
        connection = self._in_poll
        try:
            while connection and self._in_poll is connection:
                if taken := self._read_reply(connection):
                    self.qos.return_or_release([(tag, text, [name]) for name, tag, text in taken])
        except (redis.RedisError, OSError) as exc:
            logger.debug("a reply was lost with its connection: %r", exc)
        self._in_poll = None

    def _on_connection_disconnect(self, connection: Any) -> None:
        """Release the messages of the last request, if its reply is lost with the connection.

        Acknowledgements whose reply is lost are sent again.

        kombu's connections call this each time they close. kombu's own method forgets that a reply
        was outstanding.
        """
        is_unanswered = self.takes and self._in_poll is connection
        if is_unanswered and self._qos is not None and self._qos.keeper is not None:
            self._qos.keeper.release_unanswered(f"{self._suffix}{self._requests:x}")
        if self.replies.forget(connection) and self._qos is not None:
            self._qos.note_unanswered()
        super()._on_connection_disconnect(connection)

    def _forget_connection(self) -> None:
        client = self.__dict__.get("client")
        if client is not None and client.connection is not None:
            client.connection.disconnect()
