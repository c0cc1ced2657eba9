"""Extends kombu's poller, which waits for several channels, to channels that take batches."""

import logging
import select
import time
from functools import partial
from math import inf
from typing import Any, Protocol

import redis
from kombu.transport import redis as _stock

from worker.aio.transport.chores import Chores

logger = logging.getLogger(__name__)

StockPoller: Any = _stock.MultiChannelPoller  # kombu's classes are only half typed

_ANSWER_MS = 1
_SHARE_SOON_S = 0.05
"""The shortest time between two looks at the order of messages, in seconds."""
TAKING = "TAKE"
"""The name by which a taking connection is registered, beside kombu's BRPOP and LISTEN."""


class Channel(Protocol):
    """The members of a channel that the poller uses."""

    qos: Any
    client: Any
    handlers: dict[str, Any]
    active_queues: Any
    active_fanout_queues: Any
    takes: bool
    unacked_restore_limit: int | None
    unacked_restore_throttle: int
    _expires: dict[str, int]

    def keep_leases(self) -> Any:
        """Start renewing the leases of this channel's messages."""

    @property
    def look_in_s(self) -> float:
        """How long the poller may wait until the queues are read again, in seconds."""

    def flush_acks_when_due(self) -> None:
        """Send acknowledgements if there are many, or if the last batch is some time ago."""

    def ask(self) -> None:
        """Ask for messages if there is room."""

    def recover(self) -> None:
        """Put back the messages of dead workers."""

    @property
    def share_at_s(self) -> float:
        """When `share` is to be called, on the monotonic clock."""

    def share(self) -> None:
        """Put the waiting messages in an order that serves tenants in turn."""

    def maybe_refresh_binding_expiry(self) -> None:
        """Renew the bindings of queues that expire."""


class Poller(StockPoller):
    """kombu's poller, which before each wait also sends acknowledgements and asks for messages."""

    _channels: set[Channel]

    def __init__(self) -> None:
        super().__init__()
        self.hub: Any = None
        self.ticks: set[Any] = set()
        """The callbacks of this poller that the hub calls before each wait."""
        self._sharing: Any = None
        """The hub's timer for `share`."""
        self._share_at_s = inf
        self._nudge_at_s = 0.0
        self.chores = Chores()

    def end(self) -> None:
        """Remove the callbacks from the hub, which does not do so after a lost connection."""
        if self.hub is not None:
            self.hub.on_tick.difference_update(self.ticks)
        if self._sharing is not None:
            self._sharing.cancel()
        self.ticks = set()
        self.chores.end()

    def nudge(self, delay_s: float) -> bool:
        """Have the hub make a turn in `delay_s` seconds at the latest; false if there is no hub.

        A call in a hub's tick is too late for the next wait: the hub has decided how long it waits.
        """
        if self.hub is None:
            return False
        at_s = time.monotonic() + delay_s
        if not self.is_nudged or at_s < self._nudge_at_s:
            self._nudge_at_s = at_s
            self.hub.call_later(delay_s, _no_op)
        return True

    @property
    def is_nudged(self) -> bool:
        """Whether the hub will make a turn soon."""
        return time.monotonic() < self._nudge_at_s

    def on_poll_start(self) -> None:
        """Before each wait, send acknowledgements and ask for messages."""
        self._update_brpop_polling()
        for channel in list(self._channels):
            channel.flush_acks_when_due()
            if channel.active_queues:
                if channel.takes:
                    channel.ask()
                elif channel.qos.can_consume():
                    self._register_BRPOP(channel)
            if channel.active_fanout_queues:
                self._register_LISTEN(channel)

    def recover(self) -> None:
        """Put back the messages of dead workers."""
        for channel in list(self._channels):
            try:
                channel.recover()
            except (redis.RedisError, OSError) as exc:
                # If the connection is lost, reading from it raises as well; an error of the server
                # may pass.
                logger.debug("cannot look for messages of dead workers: %r", exc)

    def recover_soon(self) -> None:
        """Put back the messages of dead workers, in the thread for chores."""
        for channel in list(self._channels):
            if channel.takes and channel.active_queues:
                channel.keep_leases()  # first: only this thread may make the keeper
                self.chores.begin("look for messages of dead workers", channel, channel.recover)

    def maybe_restore_messages(self) -> None:
        """Put back messages that are older than the visibility timeout.

        If a hub runs and leases are kept, the thread for chores does this.
        """
        for channel in list(self._channels):
            if not channel.active_queues:
                continue
            if self.hub is None or not channel.takes or channel.qos.keeper is None:
                super().maybe_restore_messages()
            else:
                # Acknowledgements need not be sent first, because the keeper renews the messages
                # that they belong to.
                chore = partial(
                    channel.qos.restore_old,
                    num=channel.unacked_restore_limit,
                    interval=channel.unacked_restore_throttle,
                )
                self.chores.begin("look for messages that are held for too long", channel, chore)
            return  # one channel does it for all

    def share(self) -> None:
        """Put the waiting messages in an order that serves tenants in turn; set the next timer."""
        self._share_at_s = inf
        try:
            for channel in list(self._channels):
                try:
                    channel.share()
                except (redis.RedisError, OSError) as exc:
                    logger.debug("cannot put the queues in order: %r", exc)
        finally:
            self.share_by(min((channel.share_at_s for channel in self._channels), default=inf))

    def share_by(self, at_s: float) -> None:
        """Have `share` called at an instant on the monotonic clock, at the latest.

        Like `nudge`, a call in a hub's tick is too late for the next wait. The timer wakes an idle
        hub, so it is set only when needed.
        """
        if self.hub is None or at_s >= self._share_at_s - _SHARE_SOON_S:
            return
        if self._sharing is not None:
            self._sharing.cancel()
        pause_s = max(at_s - time.monotonic(), _SHARE_SOON_S)
        self._share_at_s = time.monotonic() + pause_s
        self._sharing = self.hub.call_later(pause_s, self.share)

    def maybe_refresh_binding_expiry(self) -> None:
        """Renew the bindings of queues that expire. Unlike kombu, log an error and do not raise it.

        If a hub runs, the thread for chores does this.
        """
        for channel in list(self._channels):
            if self.hub is not None:
                if channel._expires:  # noqa: SLF001 - kombu has no public way
                    self.chores.begin(
                        "renew bindings", channel, channel.maybe_refresh_binding_expiry
                    )
                continue
            try:
                channel.maybe_refresh_binding_expiry()
            except (redis.RedisError, OSError) as exc:
                logger.info("cannot renew bindings now (%s); trying again soon", exc)

    def connect(self, channel: Channel) -> bool:
        """Open a channel's taking connection and watch it; false if that was done before."""
        if self._client_registered(channel, channel.client, TAKING):
            return False
        self._register(channel, channel.client, TAKING)
        return True

    def on_readable(self, fileno: int) -> Any:
        """Read from a connection; from a taking connection even if there is no room for more."""
        channel, kind = self._fd_to_chan.get(fileno, (None, None))
        if channel is not None and kind == TAKING:
            return channel.handlers[TAKING]()
        return super().on_readable(fileno)

    def get(self, callback: Any, timeout: float | None = None) -> Any:
        """Wait for one event without a hub, and read the queues at each sweep."""
        longest_s = min(
            (channel.look_in_s for channel in self._channels if channel.takes), default=timeout
        )
        return super().get(
            callback, timeout=longest_s if timeout is None else min(timeout, longest_s or timeout)
        )


def _no_op() -> None:
    pass


def arrives_soon(connection: Any) -> bool:
    """Wait for a reply for at most a millisecond; return whether it has arrived."""
    sock = connection._sock  # noqa: SLF001 - redis-py has no public way
    if sock is None:
        return False
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(_ANSWER_MS))


def has_buffered(connection: Any) -> bool:
    """Return whether a reply waits in redis-py's buffer.

    redis-py's own `can_read` also asks the socket, which is the poller's task. During that system
    call, other threads may take the interpreter.
    """
    parser = getattr(connection, "_parser", None)
    if (reader := getattr(parser, "_reader", None)) is not None:  # hiredis'
        return bool(reader.has_data())
    buffer = getattr(parser, "_buffer", None)
    if buffer is not None and hasattr(buffer, "unread_bytes"):
        return bool(buffer.unread_bytes())
    return bool(connection.can_read(0))
