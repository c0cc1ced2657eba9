"""kombu's Redis transport, made safe against a worker's sudden death, and several times faster.

Use it as `broker_transport = "worker.aio.transport:Transport"` beside a `redis://` URL,
`…:TlsTransport` beside a `rediss://` one and `…:SentinelTransport` beside `sentinel://`. Keys,
messages and the visibility timeout are kombu's own, so stock producers, stock workers and Flower
share the queues. What differs:

- Messages are taken in batches, as many as the prefetch window allows, by a script that moves each
  from its list to the hash of unacknowledged messages. kombu pops first and enters afterwards: a
  process that dies in between loses the message.
- No command waits for a message. The server reports to the connection that a list has changed
  (`CLIENT TRACKING`, Redis 6 and later, RESP 3); every few seconds the connection reads the queues
  anyway, in case the report was lost.
- A worker renews leases for the messages that it holds. Where a worker died, the others take over
  after `lease_s` (60 s). The visibility timeout still applies to messages that stock workers hold.
- The acknowledgements of one turn of the hub are sent together.
- One client object serves all commands of a channel; kombu makes one for each command.
- Messages with a countdown for the queues that the option `delayed_queues` names wait in Redis and
  not in a worker. They are delivered when they are due by the clock of Redis; see
  `worker.aio.transport.delayed`.

There are two transport options beyond kombu's:

    lease_s         in seconds; 0: no leases, only the visibility timeout
    delayed_queues  the names of queues, the same for all producers and workers; in a mapping, each
                    has the queue that it goes before, whose turns its due messages take as well

A channel that consumes without acknowledging (for replies to remote control), and a channel without
`ack_emulation`, works as kombu's own.
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
    """For `redis://` URLs, and sockets."""

    Channel = Channel
    cycle: Poller
    notes_acks = True
    """Acknowledging does not call the server: the transport sends acknowledgements in batches."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()
        self.commands: redis.ConnectionPool | None = None
        """For all commands but those that take messages; shared by the channels."""

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Let a hub watch the connections."""
        before = set(loop.on_tick)
        super().register_with_event_loop(connection, loop)
        # Before each wait, kombu's own tick registers all connections with the hub once more, which
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
        """Close every channel, even if one cannot be closed in order because the server is away.

        kombu stops at the first such channel. The others would stay open without a connection:
        their messages would never come back, and the hub would go on asking for more of them.
        """
        for channel in (*self._avail_channels, *self.channels):
            try:
                channel.close()
            except (redis.RedisError, OSError, AttributeError) as exc:
                logger.debug("cannot close a channel in order: %r", exc)
                if isinstance(channel, Channel):
                    channel.abandon()
        self._avail_channels.clear()
        self.channels.clear()
        self.cycle.end()
        super().close_connection(connection)


class TlsTransport(Transport):
    """For `rediss://` URLs; kombu ignores the URL's scheme where a transport is named beside it."""

    def __init__(self, client: Any, **kwargs: Any) -> None:
        if not client.ssl:
            client.ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
        super().__init__(client, **kwargs)


class SentinelTransport(Transport):
    """For `sentinel://` URLs; the option `sentinels` has the addresses, see `SentinelChannel`."""

    Channel = SentinelChannel


# So that a connection's URL, as Flower shows it, has a scheme that others understand.
Connection.resolve_aliases[f"{__name__}:{Transport.__name__}"] = "redis"
Connection.resolve_aliases[f"{__name__}:{TlsTransport.__name__}"] = "rediss"
Connection.resolve_aliases[f"{__name__}:{SentinelTransport.__name__}"] = "sentinel"
