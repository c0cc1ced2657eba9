"""Names the keys of delayed messages, which wait in the broker for their instant.

A queue that the transport's option `delayed_queues` names has, beside each of its lists, a sorted
set of the messages that are not due yet. Their instants are by the broker's clock, so the clocks of
the hosts do not matter. `lua/take.lua` takes a message once it is due, before those of the list
beside.

The names of a queue's keys begin with the queue's own, after the channel's global prefix:

    ai.deferred.due        sorted set: the ids of jobs by the instant at which each is due, in
                           microseconds since 1970
    ai.deferred<sep>3.due  the same for the list of another priority
    ai.deferred.due.texts  hash: their messages by id
    ai.deferred.due.next   the earliest of those instants
    ai.deferred.due.leader which channel wakes up at that instant; it expires with its channel

`unacked.clock` is the broker's clock as the transport last saw it. Where the broker's clock is set
back, the transport's continues from there, so no countdown becomes longer.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from kombu.transport import redis as _stock

SEP: Final[str] = _stock.Channel.sep
PRIORITY_STEPS: Final[tuple[int, ...]] = tuple(_stock.PRIORITY_STEPS)
CLOCK_KEY: Final = "unacked.clock"


def due_of(list_name: str) -> str:
    """Name the sorted set beside a list."""
    return f"{list_name}.due"


def texts_of(queue: str) -> str:
    """Name the hash of a queue's delayed messages."""
    return f"{queue}.due.texts"


def next_of(queue: str) -> str:
    """Name the key that says when the queue's next message is due."""
    return f"{queue}.due.next"


def leader_of(queue: str) -> str:
    """Name the key that says which channel wakes up at that instant."""
    return f"{queue}.due.leader"


def lists_of(
    queue: str, *, sep: str = SEP, steps: Iterable[int] = PRIORITY_STEPS
) -> tuple[str, ...]:
    """Name a queue's lists, the most urgent priority first."""
    return tuple(f"{queue}{sep}{step}" if step else queue for step in steps)


def due_sets_of(
    queue: str, *, sep: str = SEP, steps: Iterable[int] = PRIORITY_STEPS
) -> tuple[str, ...]:
    """Name the sorted sets beside a queue's lists."""
    return tuple(due_of(name) for name in lists_of(queue, sep=sep, steps=steps))


def keys_of(
    queue: str, *, sep: str = SEP, steps: Sequence[int] = PRIORITY_STEPS
) -> tuple[str, ...]:
    """Name all keys that hold a queue's delayed messages."""
    return (*due_sets_of(queue, sep=sep, steps=steps), texts_of(queue), next_of(queue))
