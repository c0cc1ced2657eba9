"""Keeps the messages of a queue in an order that serves tenants in turn; see `lua/share.lua`."""

import hashlib
import time
from collections.abc import Iterable
from math import inf
from typing import Any, Final, Protocol

import redis

from worker.aio.transport.scripts import COUNT_PARKED, DROP_PARKED, SHARE

SHARE_S: Final = 0.1
"""The interval at which one of the workers puts the waiting messages in order, in seconds."""
_IDLE_INTERVAL_S: Final = 5.0
"""The interval between looks of a worker that knows of no waiting messages, in seconds.

Another worker, which knew of waiting messages, may have died.
"""
_PARKED_S: Final = 120.0
"""How long a message stays parked if no worker renews it. Then it returns to its list."""
_SHA: Final = hashlib.sha1(SHARE.encode()).hexdigest()  # noqa: S324 - as Redis names scripts
_PAUSE_MS: Final = round(SHARE_S * 900)
_NO_TENANT_INTERVAL_S: Final = 0.5
"""The interval at which a worker looks while no message names a tenant, in seconds."""
_TENANTS_WAIT: Final = 2
_CALL_AGAIN: Final = 3


class Channel(Protocol):
    """The members of a channel that `QueueSharing` uses."""

    unacked_key: str
    unacked_index_key: str
    global_keyprefix: str
    priority_steps: Any
    delayed_queues: Any
    lease_s: float
    visibility_timeout: float
    knows_of_messages: bool
    qos: Any
    connection: Any
    conn_or_acquire: Any
    _q_for_pri: Any


class QueueSharing:
    """Puts the queues of a channel in order while messages wait in them.

    Args:
        channel: The channel.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel: Final = channel
        self._queues: dict[str, None] = {}
        self._has_tenants = False
        self._looked_s = time.monotonic()

    def add(self, queue: str) -> None:
        """Put a queue in order from now on, also while a worker has paused it."""
        if queue not in self._channel.delayed_queues:
            self._queues[queue] = None

    @property
    def due_s(self) -> float:
        """When the messages are to be put in order, on the monotonic clock."""
        if not self._queues:
            return inf
        if self._has_tenants:
            return self._looked_s + SHARE_S
        return self._looked_s + (
            _NO_TENANT_INTERVAL_S if self._channel.knows_of_messages else _IDLE_INTERVAL_S
        )

    def share(self) -> None:
        """Put the messages of all priorities in order, if that is due.

        If a hub runs, another thread does this.

        Raises:
            redis.RedisError: The server cannot be reached, or refuses.
        """
        now_s, cycle = time.monotonic(), self._channel.connection.cycle
        if now_s < self.due_s:
            return
        self._looked_s = now_s
        if cycle.hub is None:
            self._ask()
        else:
            cycle.chores.begin("put the queues in order", self, self._ask_until_done)

    def _ask_until_done(self) -> None:
        while self._ask() == _CALL_AGAIN:
            time.sleep(SHARE_S / 10)

    def _ask(self) -> int:
        channel = self._channel
        keys = _keys(channel, tuple(self._queues))
        parked_s = min(_PARKED_S, channel.visibility_timeout or _PARKED_S)
        leases = int(channel.lease_s > 0)
        arguments = (len(keys), *keys, repr(time.time()), parked_s, leases, _PAUSE_MS)
        with channel.conn_or_acquire() as client:
            try:
                left = int(client.execute_command("EVALSHA", _SHA, *arguments))
            except redis.exceptions.NoScriptError:
                left = int(client.execute_command("EVAL", SHARE, *arguments))
        self._has_tenants = left >= _TENANTS_WAIT
        return left


def count_parked(channel: Any, queue: str) -> int:
    """Count the messages of a queue that wait in the sublists of their tenants.

    Raises:
        redis.RedisError: The server cannot be reached.
    """
    return _run(channel, COUNT_PARKED, _lists(channel, [queue]))


def drop_parked(channel: Any, queue: str) -> int:
    """Delete the messages of a queue that wait in the sublists of their tenants, and count them.

    Raises:
        redis.RedisError: The server cannot be reached.
    """
    return _run(channel, DROP_PARKED, _keys(channel, [queue]))


def is_parked(tag: str) -> bool:
    """Return whether a delivery tag is that of a parked message, which no worker holds."""
    return tag.endswith("@0")


def _run(channel: Any, script: str, keys: list[str]) -> int:
    with channel.conn_or_acquire() as client:
        return int(client.execute_command("EVAL", script, len(keys), *keys))


def _keys(channel: Any, queues: Iterable[str]) -> list[str]:
    unacked = channel.unacked_key
    names = (unacked, channel.unacked_index_key, f"{unacked}.leases")
    prefix = channel.global_keyprefix
    return [*(prefix + name for name in names), *_lists(channel, queues)]


def _lists(channel: Any, queues: Iterable[str]) -> list[str]:
    list_of = channel._q_for_pri  # noqa: SLF001 - kombu has no public way
    prefix = channel.global_keyprefix
    return [prefix + list_of(queue, step) for queue in queues for step in channel.priority_steps]
