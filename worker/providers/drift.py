"""Counts, in Redis and by shape, the parts of providers' answers that the tables do not know."""

import asyncio
import json
import logging
from collections import Counter
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from worker.foreign_json import read_json
from worker.providers.unknowns import Unknown

_logger = logging.getLogger(__name__)

KEPT_S: Final = 30 * 86_400
"""How long all counts are kept after the last unknown answer, in seconds."""

MOST_SHAPES: Final = 500
"""How many shapes are kept.

All further shapes are counted as one, so that a provider that invents names cannot fill Redis.
"""

_OTHERS = "(others)"
_EVERY_S = 1.0
_CLOSE_WITHIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Seen:
    """One shape.

    Attributes:
        service: The service's name.
        kind: Which part of the answer is unknown, such as `error_code`.
        shape: The unknown part, with its varying parts masked.
        count: How often it came.
        first_ms: When it came first, in milliseconds since 1970.
        last_ms: When it came last, in milliseconds since 1970.
    """

    service: str
    kind: str
    shape: str
    count: int
    first_ms: int
    last_ms: int

    def as_json(self) -> dict[str, Any]:
        """Return all attributes, in JSON types."""
        return {name: getattr(self, name) for name in self.__slots__}


class Drift:
    """Counts unknown answers.

    Args:
        redis: A client of the pool's Redis that decodes responses to text. It is not closed here.
        namespace: The prefix of every name in Redis.
    """

    def __init__(self, redis: Redis, *, namespace: str) -> None:
        self._redis = redis
        root = f"{{{namespace}:unknown}}"
        self._counts, self._first, self._last = (
            f"{root}:count",
            f"{root}:first_ms",
            f"{root}:last_ms",
        )
        self._new: Counter[Unknown] = Counter()
        self._logged: set[Unknown] = set()
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()

    def notice(self, unknown: Unknown) -> None:
        """Count an unknown answer, and log it if it is the first of its shape in this process.

        Returns at once: the counts are written to Redis later.
        """
        if unknown in self._new or len(self._new) < MOST_SHAPES:
            self._new[unknown] += 1
        if unknown not in self._logged and len(self._logged) < MOST_SHAPES:
            self._logged.add(unknown)
            _logger.warning(
                "%s sent an unknown answer (%s): %s. `celery -A worker keys drift` lists all "
                "unknown answers",
                unknown.service.capitalize(),
                unknown.kind.replace("_", " "),
                unknown.shape,
            )
        if self._task is None or self._task.done():
            # The task gets its own context because it does not belong to the job that came first.
            self._task = asyncio.get_running_loop().create_task(
                self._write_soon(), context=Context()
            )

    async def close(self) -> None:
        """Write the counts that are not written yet."""
        self._hurry.set()
        task = self._task
        if task is not None and task.done() and self._new:
            # When a program ends, its loop cancels all tasks before anything is closed.
            task = asyncio.ensure_future(self._write_soon())
        if task is not None:
            await asyncio.wait([task], timeout=_CLOSE_WITHIN_S)

    async def seen(self) -> list[Seen]:
        """Return every shape, the latest first.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        pipe = self._redis.pipeline(transaction=True)
        for name in (self._counts, self._first, self._last):
            pipe.hgetall(name)
        counts, first, last = await pipe.execute()
        shapes = []
        for field, count in counts.items():
            with suppress(ValueError):  # another program wrote it
                times = int(count), int(first.get(field, 0)), int(last.get(field, 0))
                match read_json(field):
                    case [str() as service, str() as kind, str() as shape]:
                        shapes.append(Seen(service, kind, shape, *times))
        return sorted(shapes, key=lambda seen: (-seen.last_ms, seen.service, seen.kind, seen.shape))

    async def forget(self) -> int:
        """Delete all counts, and return how many shapes there were.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        pipe = self._redis.pipeline(transaction=True)
        pipe.hlen(self._counts)
        pipe.delete(self._counts, self._first, self._last)
        return int((await pipe.execute())[0])

    async def _write_soon(self) -> None:
        try:
            async with asyncio.timeout(_EVERY_S):
                await self._hurry.wait()
        except TimeoutError:
            pass
        new, self._new = self._new, Counter()
        try:
            await self._write(new)
        except RedisError:
            self._new.update(new)  # written with the next unknown answer

    async def _write(self, new: Counter[Unknown]) -> None:
        pipe = self._redis.pipeline(transaction=True)
        pipe.time()
        pipe.hkeys(self._counts)
        (seconds, microseconds), known = await pipe.execute()
        now_ms, names = seconds * 1000 + microseconds // 1000, set(known)
        pipe = self._redis.pipeline(transaction=True)
        for unknown, count in new.items():
            field = json.dumps([unknown.service, unknown.kind, unknown.shape])
            if field not in names and len(names) >= MOST_SHAPES:
                field = json.dumps([unknown.service, unknown.kind, _OTHERS])
            names.add(field)
            pipe.hincrby(self._counts, field, count)
            pipe.hsetnx(self._first, field, now_ms)
            pipe.hset(self._last, field, now_ms)
        for name in (self._counts, self._first, self._last):
            pipe.expire(name, KEPT_S)
        await pipe.execute()
