"""The usage in Redis: by the minute for a day, by the hour for 90 days."""

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
"""How many series of each kind a day has place for; the counts of the others are added up.

With both kinds full, a minute or an hour is a hash of 400 short fields, which Redis keeps in its
compact form (`hash-max-listpack-entries`, 512). All of it takes at most 64 MB then.
"""

_DAY_MS = 86_400_000
_READ_AT_ONCE = 60


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

    async def read(
        self,
        unit: Unit,
        *,
        first_ms: int,
        last_ms: int,
        step_ms: int = 0,
        wanted: Callable[[Series], bool] = lambda _: True,
    ) -> AsyncIterator[Counted]:
        """Yield what was counted, step by step, the oldest first.

        Args:
            unit: Minutes or hours.
            first_ms: An instant in the first of them, in milliseconds since 1970.
            last_ms: An instant in the last of them.
            step_ms: How much of it is added up, in milliseconds: a whole number of units, within a
                day. Default: one.
            wanted: Whether a series is of interest. Default: all are.

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
        """Yield what each minute or hour holds, with the wanted series of its day."""
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
        """Read minutes or hours, and the names of the series of days."""
        pipe = self._redis.pipeline(transaction=False)
        for day in days:
            pipe.hgetall(f"{self._root}:names:{day}")
        for number in numbers:
            pipe.hgetall(f"{self._root}:{unit.value}:{number}")
        answers = await pipe.execute()
        return dict(zip(days, answers, strict=False)), answers[len(days) :]


class _Step:
    """Adds up what the minutes or hours of one step hold.

    Args:
        at_ms: When it begins, in milliseconds since 1970.
        known: The series of its day that are of interest, by their numbers.
    """

    def __init__(self, at_ms: int, known: Mapping[str, Series]) -> None:
        self.at_ms = at_ms
        self._known = known
        self._sums: dict[str, list[int]] = {}

    def add(self, bucket: Mapping[str, str]) -> None:
        """Add a minute or an hour. Thousands of them make a report, so it has to be quick."""
        for field, text in bucket.items():
            if field not in self._known:
                continue
            sums = self._sums.get(field)
            with suppress(ValueError):  # another program wrote it
                if sums is None:
                    self._sums[field] = list(unpacked(text))
                    continue
                for number, part in enumerate(text.split(",")[: len(sums)]):
                    if part:
                        sums[number] += int(part, 36)

    def counted(self) -> Iterable[Counted]:
        """What was counted in it."""
        for field, sums in self._sums.items():
            yield Counted(self.at_ms, self._known[field], tuple(sums))


def _series_in(names: Mapping[str, str]) -> Iterable[tuple[str, Series]]:
    """The series of a day, each with its number; those of a later version are left out."""
    for name, number in names.items():
        if name.startswith("["):
            with suppress(ValueError, TypeError, RecursionError):
                yield number, Series.of(name)
