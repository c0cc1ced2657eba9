"""Puts messages of dead workers, and messages that a channel gives up, back into their queues."""

import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from copy import deepcopy
from functools import cached_property
from typing import Any, Final, Protocol

from kombu.transport import redis as _stock
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps, loads

from worker.aio.transport.eta import waits
from worker.aio.transport.headers import DEATHS, DIED_S
from worker.aio.transport.leases import LeaseKeeper
from worker.aio.transport.replies import Note
from worker.aio.transport.scripts import EXPIRED, GIVE_BACK
from worker.aio.transport.sharing import is_parked

logger = logging.getLogger(__name__)

StockQoS: Any = _stock.QoS  # kombu's classes are only half typed

_BATCH: Final = 500
"""The most messages in one command, so that no command holds up the server for long."""
_DEAD_BATCH: Final = 50
"""The most messages of dead workers to read in one step."""


class Channel(Protocol):
    """The members of a channel that this module uses."""

    closed: bool
    connection: Any
    global_keyprefix: str
    unacked_key: str
    unacked_index_key: str
    conn_or_acquire: Any
    _lookup: Any
    _q_for_pri: Any
    _get_message_priority: Any

    @property
    def recover_every_s(self) -> float:
        """How often to look for messages of dead workers, in seconds."""

    def keep_leases(self) -> LeaseKeeper | None:
        """Start renewing the leases of this channel's messages."""

    def send_beside(self, note: Note, *command: Any) -> bool:
        """Send a command by the taking connection, if that is open."""


class RestoringQoS(StockQoS):
    """kombu's record of deliveries, which also puts back the messages of dead workers."""

    channel: Channel
    keeper: LeaseKeeper | None
    """Renews the leases; None while the channel takes nothing, or if there are no leases."""
    recover_at_s: float

    @cached_property  # kombu's own one takes two locks each time it is read
    def unacked_key(self) -> str:
        """The name of the hash of entries, without the global prefix."""
        return str(self.channel.unacked_key)

    @cached_property
    def unacked_index_key(self) -> str:
        """The name of kombu's index of the entries, without the global prefix."""
        return str(self.channel.unacked_index_key)

    @cached_property
    def leases_key(self) -> str:
        """The name of the leases, without the global prefix."""
        return f"{self.unacked_key}.leases"

    @cached_property
    def pulse_key(self) -> str:
        """The name of the pulse, without the global prefix."""
        return f"{self.unacked_key}.pulse"

    @cached_property
    def unreadable_key(self) -> str:
        """The name of the list of unreadable items, without the global prefix."""
        return f"{self.unacked_key}.unreadable"

    def _remove_from_indices(self, delivery_tag: str, pipe: Any = None) -> Any:
        return super()._remove_from_indices(delivery_tag, pipe).zrem(self.leases_key, delivery_tag)

    def recover(self) -> None:
        """Put back the messages of dead workers, unless that was done a moment ago."""
        keeper = self.channel.keep_leases()
        if keeper is None or time.monotonic() < self.recover_at_s:
            return
        self.recover_at_s = time.monotonic() + self.channel.recover_every_s / 2
        dead = released = 0
        first = True
        while True:
            now, expired = self._read_expired(keeper, first=first)
            first = False
            if not expired:
                break
            alive_s = [_alive_s(tag, float(lease), keeper) for tag, _, lease in expired]
            released += alive_s.count(None)
            dead += len(expired) - alive_s.count(None)
            back = [
                self._prepare(tag, entry, alive_s=at_s)
                for (tag, entry, _), at_s in zip(expired, alive_s, strict=True)
            ]
            if not self.give_back(back, before=now):
                break  # all leases were renewed meanwhile, or another worker was faster
        if dead:
            logger.warning("redelivering %d messages held by dead workers", dead)
        if released:
            logger.info("redelivering %d messages of a connection that was lost", released)

    def _read_expired(
        self, keeper: LeaseKeeper, *, first: bool
    ) -> tuple[str, list[tuple[str, bytes, bytes]]]:
        prefix = self.channel.global_keyprefix
        keys = [prefix + key for key in (self.pulse_key, self.leases_key, self.unacked_key)]
        with self.channel.conn_or_acquire() as client:
            now, keeper.workers, *parts = client.execute_command(
                "EVAL", EXPIRED, len(keys), *keys,
                keeper.patience_s, _DEAD_BATCH, self.channel.recover_every_s, int(first),
            )  # fmt: skip
        return bytes_to_str(now), [  # type: ignore[no-untyped-call, unused-ignore]
            (parts[at].decode(), parts[at + 1], parts[at + 2]) for at in range(0, len(parts), 3)
        ]

    def _prepare(
        self, tag: str, entry: bytes, *, alive_s: float | None
    ) -> tuple[str, Any, list[str]]:
        """Prepare a message for `give_back`; a dead worker, if any, was last alive at `alive_s`."""
        try:
            payload, exchange, routing_key = loads(bytes_to_str(entry))  # type: ignore[no-untyped-call, unused-ignore]
        except (TypeError, ValueError):
            logger.error(  # noqa: TRY400 - the traceback would show the entry
                "moved an entry of %s that is not a message to %s",
                self.unacked_key,
                self.unreadable_key,
            )
            return tag, entry, [self.unreadable_key]
        mark_redelivered(payload)
        headers = payload.get("headers")
        # A message that still waited for its instant was not the cause of the worker's death.
        if (
            alive_s is not None
            and isinstance(headers, dict)
            and not waits(headers.get("eta"), alive_s)
        ):
            deaths = headers.get(DEATHS)
            headers[DEATHS] = (deaths if isinstance(deaths, int) else 0) + 1
            headers[DIED_S] = _earlier(headers.get(DIED_S), round(alive_s, 3))
        return tag, dumps(payload), self._lists_of(payload, exchange, routing_key)  # type: ignore[no-untyped-call, unused-ignore]

    def _lists_of(self, payload: Any, exchange: Any, routing_key: Any) -> list[str]:
        """Return the lists that a message goes back to, as kombu chooses them."""
        priority = self.channel._get_message_priority(payload)  # noqa: SLF001
        queues = self.channel._lookup(exchange, routing_key)  # noqa: SLF001
        # If the bindings are gone, the best guess is the queue with the name of the routing key.
        # Without any list, the message would be lost.
        return [self.channel._q_for_pri(queue, priority) for queue in queues or [routing_key]]  # noqa: SLF001

    def give_back(
        self,
        messages: Iterable[tuple[str, Any, list[str]]],
        *,
        client: Any = None,
        before: str = "",
    ) -> int:
        """Put messages back, in their order, so that they are taken next.

        Args:
            messages: For each message its tag, its text and the lists that it goes to, without the
                global prefix.
            client: The client. Default: the channel's.
            before: Put back only messages whose lease ended by this instant of the server's clock,
                in seconds.

        Returns:
            How many messages were put back.
        """
        left = list(messages)
        count = 0
        while left:
            part, left = left[-_BATCH:], left[:-_BATCH]
            prefix = self.channel.global_keyprefix
            names = (self.unacked_key, self.unacked_index_key, self.leases_key, self.unreadable_key)
            keys = [prefix + name for name in names]
            arguments: list[Any] = [before]
            for tag, text, lists in reversed(part):
                numbers = []
                for name in lists:
                    if prefix + name not in keys:
                        keys.append(prefix + name)
                    numbers.append(keys.index(prefix + name) + 1)
                arguments += [tag, text, len(numbers), *numbers]
            with self.channel.conn_or_acquire(client) as connected:
                count += connected.execute_command("EVAL", GIVE_BACK, len(keys), *keys, *arguments)
        return count


def payload_of(message: Any) -> Any:
    """Return a copy of a message's payload, with the tag that its producer gave it."""
    payload = deepcopy(message._raw)  # noqa: SLF001 - what kombu stores as well
    with suppress(KeyError):
        payload["properties"]["delivery_tag"] = (
            message.delivery_tag.rpartition("@")[0] or message.delivery_tag
        )
    return payload


def _earlier(header: Any, at_s: float) -> float:
    """Return the earlier of two moments, in seconds since 1970.

    The first comes from a message's header and may be anything.
    """
    return min(float(header), at_s) if type(header) in {int, float} and 0 < header < at_s else at_s


def mark_redelivered(payload: Any) -> None:
    """Mark a message, in its headers and properties, as delivered before."""
    with suppress(KeyError, TypeError):
        payload["headers"]["redelivered"] = True
        payload["properties"]["delivery_info"]["redelivered"] = True


def _alive_s(tag: str, lease_s: float, keeper: LeaseKeeper) -> float | None:
    """Return when the dead worker that held a message was last alive; None if none had it."""
    return lease_s - keeper.lease_s if lease_s > 0 and not is_parked(tag) else None
