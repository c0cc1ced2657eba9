"""Names the keys of delayed messages, which wait in the broker for their instant.

If the transport's option `delayed_queues` names a queue, the queue has a sorted set beside each of
its lists, for the messages that are not due yet. Their instants are by the broker's clock, so the
clocks of the hosts do not matter. Once a message is due, `lua/take.lua` takes it before the
messages of the list.

The names of a queue's keys begin with the queue's name, after the channel's global prefix:

    ai.deferred.due        sorted set: the ids of jobs by the instant at which each is due, in
                           microseconds since 1970
    ai.deferred<sep>3.due  the same for the list of another priority
    ai.deferred.due.texts  hash: their messages by id
    ai.deferred.due.next   the earliest of those instants
    ai.deferred.due.leader the channel that wakes up at that instant; it expires without a renewal

`unacked.clock` holds the time of the broker's clock when the transport last read it. If that clock
is set back, the transport's time continues from there, so no countdown becomes longer.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from kombu.transport import redis as _stock

SEP: Final[str] = _stock.Channel.sep
PRIORITY_STEPS: Final[tuple[int, ...]] = tuple(_stock.PRIORITY_STEPS)
CLOCK_KEY: Final = "unacked.clock"


def due_of(list_name: str) -> str:
    """Return the name of the sorted set beside a list."""
    return f"{list_name}.due"


def texts_of(queue: str) -> str:
    """Return the name of the hash of a queue's delayed messages."""
    return f"{queue}.due.texts"


def next_of(queue: str) -> str:
    """Return the name of the key with the instant at which the queue's next message is due."""
    return f"{queue}.due.next"


def leader_of(queue: str) -> str:
    """Return the name of the key with the channel that wakes up for the queue's next message."""
    return f"{queue}.due.leader"


def lists_of(
    queue: str, *, sep: str = SEP, steps: Iterable[int] = PRIORITY_STEPS
) -> tuple[str, ...]:
    """Return the names of a queue's lists, the most urgent priority first."""
    return tuple(f"{queue}{sep}{step}" if step else queue for step in steps)


def due_sets_of(
    queue: str, *, sep: str = SEP, steps: Iterable[int] = PRIORITY_STEPS
) -> tuple[str, ...]:
    """Return the names of the sorted sets beside a queue's lists."""
    return tuple(due_of(name) for name in lists_of(queue, sep=sep, steps=steps))


def keys_of(
    queue: str, *, sep: str = SEP, steps: Sequence[int] = PRIORITY_STEPS
) -> tuple[str, ...]:
    """Return the names of all keys that hold a queue's delayed messages."""
    return (*due_sets_of(queue, sep=sep, steps=steps), texts_of(queue), next_of(queue))
