"""Keeps the usage in Redis: by the minute for a day, by the hour for 90 days."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Final

from redis.asyncio import Redis

from worker.aio.lua_source import source
from worker.redis.autopipeline import pipeline_of
from worker.redis.lua import Clock, Script, keys_of
from worker.usage.series import Counts, Series, packed, unpacked

MOST_SERIES: Final = 200
"""The most series of each kind on one day; the counts of all further series are added up.

If both kinds are full, a minute or an hour is a hash of 400 short fields, which Redis keeps in its
compact form (`hash-max-listpack-entries`, 512). The whole usage then takes at most 64 MB.
"""

_DAY_MS = 86_400_000
_READ_AT_ONCE = 60


class Unit(Enum):
    """The unit of time that usage is counted by."""

    MINUTE = "minute"
    HOUR = "hour"

    @property
    def ms(self) -> int:
        """The length of the unit, in milliseconds."""
        return {Unit.MINUTE: 60_000, Unit.HOUR: 3_600_000}[self]


@dataclass(frozen=True, slots=True)
class Counted:
    """The counts of one series in one step.

    Attributes:
        at_ms: When the step began, in milliseconds since 1970.
        series: The series.
        counts: The counts.
    """

    at_ms: int
    series: Series
    counts: Counts


class UsageStore:
    """Adds counts to the usage in Redis, and reads them.

    Args:
        redis: A client of the pool's Redis that decodes responses to text. It is not closed here.
        namespace: The prefix of every name in Redis.
        most_series: The most series of each kind on one day.
        now_ms: A clock for tests, in milliseconds since 1970. Default: Redis' clock.
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
        """Add counts to the present minute and hour, in one command.

        Args:
            counted: The counts of a process since its last report.
            writer: The id of the process.
            number: The number of this report. Each report has a higher one than the report before;
                a report that is sent again keeps its number.

        Returns:
            False if the report was counted before.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached. The counts may have been added.
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
        """Return the time of Redis' clock, in milliseconds since 1970.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        if self._now_ms:
            return self._now_ms()
        seconds, microseconds = await self._redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def read(
        self,
        unit: Unit,
        *,
        first_ms: int,
        last_ms: int,
        step_ms: int = 0,
        wanted: Callable[[Series], bool] = lambda _: True,
    ) -> AsyncIterator[Counted]:
        """Yield the counts step by step, the oldest step first.

        Args:
            unit: The unit to read: minutes or hours.
            first_ms: An instant in the first unit, in milliseconds since 1970.
            last_ms: An instant in the last unit.
            step_ms: The length of a step, in milliseconds: one or several whole units that are
                added up. A day must be a whole number of steps. Default: one unit.
            wanted: Returns whether to include a series. Default: all series.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        step = _Step(0, {})
        numbers = range(first_ms // unit.ms, last_ms // unit.ms + 1)
        async for number, bucket, series in self._buckets(unit, numbers, wanted):
            at_ms = number * unit.ms
            at_ms -= at_ms % (step_ms or unit.ms)
            if at_ms != step.at_ms:
                for counted in step.counted():
                    yield counted
                step = _Step(at_ms, series)
            step.add(bucket)
        for counted in step.counted():
            yield counted

    async def _buckets(
        self, unit: Unit, numbers: Sequence[int], wanted: Callable[[Series], bool]
    ) -> AsyncIterator[tuple[int, dict[str, str], dict[str, Series]]]:
        """Yield each unit's number and counts, with the wanted series of its day."""
        known: dict[int, dict[str, Series]] = {}
        for start in range(0, len(numbers), _READ_AT_ONCE):
            some = numbers[start : start + _READ_AT_ONCE]
            days = {number * unit.ms // _DAY_MS for number in some} - known.keys()
            names, buckets = await self._read(unit, some, days=sorted(days))
            for day, found in names.items():
                known[day] = {
                    field: series for field, series in _series_in(found) if wanted(series)
                }
            for number, bucket in zip(some, buckets, strict=True):
                yield number, bucket, known[number * unit.ms // _DAY_MS]

    async def _read(
        self, unit: Unit, numbers: Sequence[int], *, days: Sequence[int]
    ) -> tuple[dict[int, dict[str, str]], list[dict[str, str]]]:
        """Read the counts of units, and the names of the series of days."""
        pipe = self._redis.pipeline(transaction=False)
        for day in days:
            pipe.hgetall(f"{self._root}:names:{day}")
        for number in numbers:
            pipe.hgetall(f"{self._root}:{unit.value}:{number}")
        answers = await pipe.execute()
        return dict(zip(days, answers, strict=False)), answers[len(days) :]


class _Step:
    """The sum of the minutes or hours of one step.

    Args:
        at_ms: When the step begins, in milliseconds since 1970.
        known: The wanted series of its day, by their numbers.
    """

    def __init__(self, at_ms: int, known: Mapping[str, Series]) -> None:
        self.at_ms = at_ms
        self._known = known
        self._sums: dict[str, list[int]] = {}

    def add(self, bucket: Mapping[str, str]) -> None:
        """Add a minute or an hour. A report adds thousands of them, so this has to be fast."""
        for field, text in bucket.items():
            if field not in self._known:
                continue
            sums = self._sums.get(field)
            with suppress(ValueError):  # another program wrote the field
                if sums is None:
                    self._sums[field] = list(unpacked(text))
                    continue
                for number, part in enumerate(text.split(",")[: len(sums)]):
                    if part:
                        sums[number] += int(part, 36)

    def counted(self) -> Iterable[Counted]:
        """Yield the sums of the step, by series."""
        for field, sums in self._sums.items():
            yield Counted(self.at_ms, self._known[field], tuple(sums))


def _series_in(names: Mapping[str, str]) -> Iterable[tuple[str, Series]]:
    """Yield the series of a day, each with its number; skip names that a later version wrote."""
    for name, number in names.items():
        if name.startswith("["):
            with suppress(ValueError, TypeError, RecursionError):
                yield number, Series.of(name)
