"""The usage in Redis: by the minute for a day, by the hour for 90 days."""

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from redis.asyncio import Redis

from worker.redis.autopipeline import pipeline_of
from worker.redis.lua import Clock, Script, keys_of, source
from worker.usage.series import Counts, Series, packed, unpacked

MOST_SERIES: Final = 200
"""How many series of each kind a day has place for; the counts of the others are added up.

With both kinds full, a minute or an hour is a hash of 400 short fields, which Redis keeps in its
compact form (`hash-max-listpack-entries`, 512). All of it takes at most 64 MB then.
"""

_DAY_MS = 86_400_000
_READ_AT_ONCE = 120


class Unit(Enum):
    """How finely usage is kept."""

    MINUTE = "minute"
    HOUR = "hour"

    @property
    def ms(self) -> int:
        """Its length in milliseconds."""
        return {Unit.MINUTE: 60_000, Unit.HOUR: 3_600_000}[self]


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted for one series in one minute or hour.

    Attributes:
        at_ms: When the minute or hour began, in milliseconds since 1970.
        series: For whom.
        counts: How much.
    """

    at_ms: int
    series: Series
    counts: Counts


class UsageStore:
    """Adds to the usage, and reads it.

    Args:
        redis: The pool's Redis; a client that decodes responses to text. Not closed here.
        namespace: What stands before every name.
        most_series: How many series of each kind a day has place for.
        now_ms: A clock for tests, in milliseconds. Default: Redis' own.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        namespace: str,
        most_series: int = MOST_SERIES,
        now_ms: Clock | None = None,
    ) -> None:
        self._redis = redis
        self._root = f"{{{namespace}:usage}}"
        self._most_series = most_series
        self._now_ms = now_ms
        self._add = Script(pipeline_of(redis), source(__package__, "add"))

    async def add(self, counted: Mapping[Series, Counts], *, writer: str, number: int) -> bool:
        """Count in the present minute and hour, in one command.

        Args:
            counted: What a process saw since its report before.
            writer: Names the process.
            number: The number of this report. It grows, and a report that is sent again has the
                same one.

        Returns:
            False if the report was counted before.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached. It may have counted all the same.
        """
        arguments = [
            text
            for series, counts in counted.items()
            for text in (series.name, series.others.name, packed(counts))
        ]
        now_ms = self._now_ms() if self._now_ms else ""
        return bool(
            await self._add(
                keys_of([self._root]), now_ms, writer, number, self._most_series, *arguments
            )
        )

    async def now_ms(self) -> int:
        """The time by Redis' clock, in milliseconds since 1970.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        if self._now_ms:
            return self._now_ms()
        seconds, microseconds = await self._redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def read(self, unit: Unit, *, first_ms: int, last_ms: int) -> AsyncIterator[Counted]:
        """Yield what was counted, oldest first.

        Args:
            unit: Minutes or hours.
            first_ms: An instant in the first of them, in milliseconds since 1970.
            last_ms: An instant in the last of them.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        numbers = range(first_ms // unit.ms, last_ms // unit.ms + 1)
        names: dict[int, dict[str, Series]] = {}
        for start in range(0, len(numbers), _READ_AT_ONCE):
            some = numbers[start : start + _READ_AT_ONCE]
            days = {number * unit.ms // _DAY_MS for number in some} - names.keys()
            pipe = self._redis.pipeline(transaction=False)
            for day in days:
                pipe.hgetall(f"{self._root}:names:{day}")
            for number in some:
                pipe.hgetall(f"{self._root}:{unit.value}:{number}")
            answers = await pipe.execute()
            names |= {
                day: _series_in(found)
                for day, found in zip(days, answers[: len(days)], strict=True)
            }
            for number, found in zip(some, answers[len(days) :], strict=True):
                at_ms = number * unit.ms
                known = names[at_ms // _DAY_MS]
                for field, text in found.items():
                    if (series := known.get(field)) is not None:
                        yield Counted(at_ms, series, unpacked(text))


def _series_in(names: Mapping[str, str]) -> dict[str, Series]:
    """The series of a day by their numbers; those of a later version are left out."""
    return dict(_readable(names.items()))


def _readable(names: Iterable[tuple[str, str]]) -> Iterable[tuple[str, Series]]:
    for name, number in names:
        if name.startswith("["):
            try:
                yield number, Series.of(name)
            except (ValueError, json.JSONDecodeError):
                continue
