"""Delayed delivery.

Messages that wait in the broker for their instant, and that no worker holds meanwhile.

A queue that the transport's option `delayed_queues` names has, beside each of its lists, a sorted
set of the messages that are not due yet. Their instants are by the broker's clock, so the clocks of
the hosts do not matter. `TAKE` hands a message out once it is due, before those of the list beside.

The names of a queue's keys all begin with its own, behind the channel's global prefix:

    ai.deferred.due        sorted set: the ids of jobs by the instant at which each is due, in
                           microseconds since 1970
    ai.deferred<sep>3.due  the same for the list of another priority
    ai.deferred.due.texts  hash: their messages by id
    ai.deferred.due.next   the earliest of those instants
    ai.deferred.due.guard  which channel wakes up at that instant; it expires with its channel

`unacked.clock` is the broker's clock as the transport last saw it. Where it is set back, the
transport's goes on from
there: a countdown does not become longer by it.
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
    """Name what tells when the queue's next message is due."""
    return f"{queue}.due.next"


def guard_of(queue: str) -> str:
    """Name what tells which channel wakes up then."""
    return f"{queue}.due.guard"


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
    """Name all that holds a queue's delayed messages."""
    return (*due_sets_of(queue, sep=sep, steps=steps), texts_of(queue), next_of(queue))


CLOCK: Final = """
local function clock_us(key)
  local time = redis.call('TIME')
  local real_us, kept = time[1] * 1000000 + time[2], redis.call('GETEX', key)
  local last_us, skew_us = string.match(kept or '', '^(%d+) (%d+)$')
  last_us, skew_us = tonumber(last_us or 0), tonumber(skew_us or 0)
  local set_back = last_us - real_us - skew_us > 1000000
  if set_back then skew_us = last_us - real_us end
  local now_us = math.max(last_us, real_us + skew_us)
  if set_back or now_us - last_us > 250000 then
    redis.call('SET', key, string.format('%.0f %.0f', now_us, skew_us))
  end
  return now_us
end
"""
"""The broker's clock, in microseconds since 1970, except that it never runs backwards.

Where a script only peeks, it uses GETEX: a GET would have the server tell this connection of each
change.
"""

DELAY: Final = (
    CLOCK
    + """
local due_us = clock_us(KEYS[4]) + tonumber(ARGV[3])
local text = string.format('%.0f', due_us)
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[1], text, ARGV[1])
local next_us = redis.call('GET', KEYS[3])
if not next_us or due_us < tonumber(next_us) then redis.call('SET', KEYS[3], text) end
return text
"""
)
"""Puts a message beside its list until it is due. Another one of the same job takes its place.

KEYS: the list's sorted set; the queue's texts and next instant; the clock. ARGV: the job's id, the
message's text, its countdown in microseconds. Gives: the instant, in microseconds since 1970.
"""

WAKE: Final = """
local time, waiting, is_any_early = redis.call('TIME'), 0, false
local now_us = string.format('%.0f', time[1] * 1000000 + time[2])
for at = 2, #KEYS do
  local count = redis.call('ZCARD', KEYS[at])
  if redis.call('ZCOUNT', KEYS[at], '(' .. now_us, '+inf') > 0 then
    redis.call('ZUNIONSTORE', KEYS[at], 1, KEYS[at], 'WEIGHTS', '0.5')
    is_any_early = true
  end
  waiting = waiting + count
end
if is_any_early then redis.call('SET', KEYS[1], '0') end
return waiting
"""
"""Makes all delayed messages of a queue due, in their order. Where all are due nothing changes.

Half of an instant is long past, and halving a floating-point number keeps the order exactly, about
a thousand times.

KEYS: the queue's next instant; its sorted sets. Gives: how many messages there are.
"""

WAKE_SOME: Final = """
local woken = 0
for at = 2, #KEYS do
  for _, id in ipairs(ARGV) do woken = woken + redis.call('ZADD', KEYS[at], 'XX', 'CH', 0, id) end
end
if woken > 0 then redis.call('SET', KEYS[1], '0') end
return woken
"""
"""Makes the delayed messages of some jobs due.

KEYS: the queue's next instant; its sorted sets. ARGV: the jobs' ids. Gives: how many messages were
woken.
"""
