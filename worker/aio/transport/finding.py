"""Finds a job among the waiting messages, and counts the messages before it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis

from worker.aio.transport.delayed import due_of
from worker.aio.transport.scripts import COUNT_PARKED, FIND

_UNACKED: Final = "unacked"
_WINDOW: Final = 128
"""How many messages are taken before those in tenants' sublists (see `lua/share.lua`)."""
_SLICE: Final = 200
"""The most messages to read in one step, which takes a millisecond of the server's time."""
_MOST: Final = 20_000
"""The most messages to read of one list."""


@dataclass(frozen=True, slots=True)
class Found:
    """A job that waits.

    Attributes:
        before: How many messages of its queue will be taken before the job. If it waits in the
            sublist of its tenant, the turns of the other tenants are counted, too.
        waiting: How many messages wait in its queue.
        message: The job's message.
    """

    before: int
    waiting: int
    message: dict[str, Any]


async def find_job(broker: Redis, job: str, lists: Sequence[str]) -> Found | None:
    """Look for a job in a queue, except among messages that are not due yet.

    Args:
        broker: The Redis of the broker.
        job: The job's id.
        lists: The queue's lists, the most urgent first.

    Returns:
        None if the job is not in the queue, or if more than 20,000 messages of its list come before
        it.

    Raises:
        redis.exceptions.RedisError: The broker cannot be reached.
    """
    sizes = [await _size(broker, name) for name in lists]
    for index, name in enumerate(lists):
        found = await _in_list(broker, job, name)
        if found is not None and found[0] >= _WINDOW:  # it comes after the messages in sublists
            found = (found[0] + await _parked(broker, name), found[1])
        found = found or await _in_sublists(broker, job, name)
        if found is not None:
            before, message = found
            return Found(sum(sizes[:index]) + before, sum(sizes), message)
    return None


async def count_waiting(broker: Redis, lists: Sequence[str]) -> int:
    """Count the messages of queues that no worker has, including those that are not due yet.

    Args:
        broker: The Redis of the broker.
        lists: The lists of the queues.

    Raises:
        redis.exceptions.RedisError: The broker cannot be reached.
    """
    counts = [await _size(broker, name) + int(await broker.zcard(due_of(name))) for name in lists]
    return sum(counts)


async def _size(broker: Redis, name: str) -> int:
    # In one transaction, because messages may move from the list to sublists between two commands.
    async with broker.pipeline(transaction=True) as pipe:
        pipe.eval(COUNT_PARKED, 1, name)
        pipe.llen(name)
        parked, listed = await pipe.execute()
    return int(parked) + int(listed)


async def _parked(broker: Redis, name: str) -> int:
    count: int = await broker.eval(COUNT_PARKED, 1, name)
    return count


async def _in_list(broker: Redis, job: str, *keys: str) -> tuple[int, dict[str, Any]] | None:
    skipped = 0
    while skipped < _MOST:
        read, *found = await broker.eval(FIND, len(keys), *keys, job, skipped, _SLICE)
        if found:
            index = int(found[0])
            if (message := _message_of(job, found[1])) is not None:
                return index, message
            skipped = index + 1
        elif read < _SLICE:
            return None
        else:
            skipped += _SLICE
    return None


async def _in_sublists(broker: Redis, job: str, name: str) -> tuple[int, dict[str, Any]] | None:
    tenants = await broker.zrange(f"{name}.tenants", 0, -1)
    sublists = [f"{name}.tenant.{tenant!s}" for tenant in tenants]
    for sublist in sublists:
        found = await _in_list(broker, job, sublist, _UNACKED)
        if found is not None:
            before, message = found
            others = [int(await broker.llen(other)) for other in sublists if other != sublist]
            turns = sum(min(size, before) for size in others)
            return min(_WINDOW, int(await broker.llen(name))) + before + turns, message
    return None


def _message_of(job: str, text: str) -> dict[str, Any] | None:
    """Return a message if it is the job's own; None if it only mentions the job, like a child's."""
    try:
        read = json.loads(text)
    except ValueError:
        return None
    message = read[0] if isinstance(read, list) and read else read
    headers = message.get("headers") if isinstance(message, dict) else None
    return message if isinstance(headers, dict) and headers.get("id") == job else None
