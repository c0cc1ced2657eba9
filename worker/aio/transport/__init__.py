"""kombu's Redis transport, made safe against a worker's sudden death, and several times faster.

Use it as `broker_transport = "worker.aio.transport:Transport"` beside a `redis://` URL, and
`…:TlsTransport` beside a `rediss://` one. Keys, messages and the visibility timeout are kombu's
own, so stock producers, stock workers and Flower share the queues. What differs:

- Messages are taken in batches, as many as the prefetch window allows, by a script that moves each
  from its list to the book of unacknowledged messages. kombu pops first and books afterwards: a
  process that dies in between takes the message with it.
- Nothing is popped while waiting. The server tells the connection that a list changed (`CLIENT
  TRACKING`, Redis 6 and later, RESP 3); every few seconds it looks by itself, in case the hint got
  lost.
- A worker renews what it holds; where one died, the others take over after `lease_s` (60 s), not
  after the visibility timeout. That still governs what stock workers hold.
- Acknowledgements of one turn of the hub go out together.
- One client object serves all commands of a channel; kombu makes one for each command.

- Messages with a countdown for the queues that the option `delayed_queues` names wait in Redis and
  not in a worker, and are handed out when they are due by the clock of Redis; see
  `worker.aio.transport.delayed`.

Beside kombu's transport options there are two:

    lease_s         in seconds; 0: no leases, only the visibility timeout
    delayed_queues  the names of queues, the same for all producers and workers; a mapping: each
                    with the queue that it goes before, whose turns its due messages take as well

A channel that consumes without acknowledging (replies to remote control), and one without
`ack_emulation`, is kombu's own in all of this.
"""

import logging
import ssl
from functools import partial
from typing import Any

import redis
from kombu.connection import Connection
from kombu.transport import redis as _stock

from worker.aio.transport.channel import LEASE_S, RECOVER_S, Channel
from worker.aio.transport.poller import Poller

__all__ = ["Channel", "TlsTransport", "Transport"]

logger = logging.getLogger(__name__)

StockTransport: Any = _stock.Transport  # kombu's classes are only half typed


class Transport(StockTransport):
    """For `redis://` URLs, and sockets."""

    Channel = Channel
    cycle: Poller
    notes_acks = True
    """An acknowledgement is only noted where it is asked for; it is sent later, with others."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()
        self.commands: redis.ConnectionPool | None = None
        """For what is no question for messages; of all channels, which one thread uses."""

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Let a hub watch the connections."""
        before = set(loop.on_tick)
        super().register_with_event_loop(connection, loop)
        # kombu's own tick gives all connections to the hub anew before each wait: four system calls
        # for nothing.
        loop.on_tick.intersection_update(before)
        self.cycle.hub = loop
        self.cycle.ticks = {partial(self._before_wait, loop)}
        loop.on_tick.update(self.cycle.ticks)
        lease_s = float(connection.client.transport_options.get("lease_s", LEASE_S))
        if lease_s > 0:
            loop.call_repeatedly(min(RECOVER_S, lease_s / 4), self.cycle.recover)

    def _before_wait(self, loop: Any) -> None:
        self.cycle.on_poll_start()
        for number in self.cycle.fds:
            if number not in loop.readers:
                loop.add_reader(number, self.on_readable, number)

    def close_connection(self, connection: Any) -> None:
        """Close every channel, also where one of them cannot be closed in order because the server is away.

        kombu stops at the first such channel. The others would stay open without a connection:
        their messages would never come back, and the hub would go on asking for more in their name.
        """
        for channel in (*self._avail_channels, *self.channels):
            try:
                channel.close()
            except (redis.RedisError, OSError, AttributeError) as exc:
                logger.debug("a channel was closed without the server: %r", exc)
                if isinstance(channel, Channel):
                    channel.abandon()
        self._avail_channels.clear()
        self.channels.clear()
        self.cycle.end()
        super().close_connection(connection)


class TlsTransport(Transport):
    """For `rediss://` URLs. kombu sees from the URL alone whether to use TLS, unless a transport is named beside it."""

    def __init__(self, client: Any, **kwargs: Any) -> None:
        if not client.ssl:
            client.ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
        super().__init__(client, **kwargs)


# So that what shows a connection's URL shows one that others understand, Flower above all.
Connection.resolve_aliases[f"{__name__}:{Transport.__name__}"] = "redis"
Connection.resolve_aliases[f"{__name__}:{TlsTransport.__name__}"] = "rediss"
