"""Extends kombu's Redis transport: it is faster, and loses no message when a worker dies.

Set `broker_transport` to `worker.aio.transport:Transport` with a `redis://` URL, to
`…:TlsTransport` with a `rediss://` URL, and to `…:SentinelTransport` with a `sentinel://` URL.
Keys, messages and the visibility timeout are kombu's own, so stock producers, stock workers and
Flower share the queues. The differences from kombu:

- A script takes messages in batches, as many as the prefetch window allows. It moves each from its
  list to the hash of unacknowledged messages. kombu pops a message first and records it afterwards:
  a process that dies in between loses the message.
- No command blocks until a message comes. The server sends hints to the taking connection, which
  takes the messages of a channel: a hint names a list that has changed (`CLIENT TRACKING`, Redis 6
  and later, RESP 3). In case a hint was lost, a sweep reads all queues every few seconds.
- A worker renews leases for the messages that it holds. If a worker dies, the others take over its
  messages after `lease_s` (60 s). The visibility timeout still applies to messages that stock
  workers hold.
- The acknowledgements of one turn of the hub, kombu's event loop, are sent together.
- One client object serves all commands of a channel; kombu makes one for each command.
- The option `delayed_queues` names queues whose messages with a countdown wait in Redis, not in a
  worker. They are delivered when they are due by Redis' clock; see `worker.aio.transport.delayed`.

There are two transport options beyond kombu's:

    lease_s         in seconds; 0: no leases, only the visibility timeout
    delayed_queues  the names of queues, the same for all producers and workers. In a mapping, the
                    value of a queue may be a second queue, whose turns due messages take as well

A channel that consumes without acknowledging (for replies to remote control), and a channel without
`ack_emulation`, works like kombu's own.
"""

import logging
import ssl
import time
from functools import partial
from typing import Any

import redis
from kombu.connection import Connection
from kombu.transport import redis as _stock

from worker.aio.transport.channel import LEASE_S, RECOVER_S, Channel
from worker.aio.transport.poller import Poller
from worker.aio.transport.sentinel import SentinelChannel
from worker.aio.transport.sharing import SHARE_S

__all__ = ["Channel", "SentinelTransport", "TlsTransport", "Transport"]

logger = logging.getLogger(__name__)

StockTransport: Any = _stock.Transport  # kombu's classes are only half typed


class Transport(StockTransport):
    """The transport for `redis://` URLs and Unix sockets."""

    Channel = Channel
    cycle: Poller
    notes_acks = True
    """Acknowledging does not call the server: the transport sends acknowledgements in batches."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()
        self.commands: redis.ConnectionPool | None = None
        """The connections for commands that take no messages; the channels share them."""

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Let the hub watch the connections."""
        before = set(loop.on_tick)
        super().register_with_event_loop(connection, loop)
        # kombu's own tick would register all connections again before each wait of the hub, which
        # costs four system calls.
        loop.on_tick.intersection_update(before)
        self.cycle.hub = loop
        self.cycle.ticks = {partial(self._before_wait, loop)}
        loop.on_tick.update(self.cycle.ticks)
        lease_s = float(connection.client.transport_options.get("lease_s", LEASE_S))
        self.cycle.share_by(time.monotonic() + SHARE_S)
        if lease_s > 0:
            loop.call_repeatedly(min(RECOVER_S, lease_s / 4), self.cycle.recover_soon)

    def _before_wait(self, loop: Any) -> None:
        self.cycle.on_poll_start()
        for number in self.cycle.fds:
            if number not in loop.readers:
                loop.add_reader(number, self.on_readable, number)

    def close_connection(self, connection: Any) -> None:
        """Close every channel, even if one cannot be closed properly because the server is away.

        kombu stops at the first such channel. The others would stay open without a connection:
        their messages would never be delivered again, and the hub would go on requesting messages.
        """
        for channel in (*self._avail_channels, *self.channels):
            try:
                channel.close()
            except (redis.RedisError, OSError, AttributeError) as exc:
                logger.debug("cannot close a channel properly: %r", exc)
                if isinstance(channel, Channel):
                    channel.abandon()
        self._avail_channels.clear()
        self.channels.clear()
        self.cycle.end()
        super().close_connection(connection)


class TlsTransport(Transport):
    """The transport for `rediss://` URLs, whose scheme kombu ignores if a transport is named."""

    def __init__(self, client: Any, **kwargs: Any) -> None:
        if not client.ssl:
            client.ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
        super().__init__(client, **kwargs)


class SentinelTransport(Transport):
    """The transport for `sentinel://` URLs; `SentinelChannel` documents its options."""

    Channel = SentinelChannel


# With these aliases, the URL that Flower shows has a scheme that other programs understand.
Connection.resolve_aliases[f"{__name__}:{Transport.__name__}"] = "redis"
Connection.resolve_aliases[f"{__name__}:{TlsTransport.__name__}"] = "rediss"
Connection.resolve_aliases[f"{__name__}:{SentinelTransport.__name__}"] = "sentinel"
