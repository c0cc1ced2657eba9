"""Reports the usage over a range of time, in steps: grouped, filtered and priced."""

import csv
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO
from typing import Any, Final, Self

from config.prices import Prices
from worker.usage.series import MEASURES, Series
from worker.usage.store import Counted, Unit, UsageStore

_TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
_MINUTE_MS = 60_000
_HOUR_MS = 60 * _MINUTE_MS
_DAY_MS = 24 * _HOUR_MS
_FORMULA_RE: Final = re.compile(r"""(?:^|(?<=[;\t|]))(?=[\t\r\n]|[\s"']*[=+\-@＝＋－＠])""")
"""Matches each place where a spreadsheet may see the beginning of a formula.

Spreadsheets of some languages accept the signs in full width. Others split a line at semicolons,
tabs or bars, and remove blanks and quotes.
"""

STEPS: Final = {
    "minute": _MINUTE_MS,
    "ten_minutes": 10 * _MINUTE_MS,
    "hour": _HOUR_MS,
    "day": _DAY_MS,
}
"""The length of each step, in milliseconds. Days are those of UTC."""

RANGES: Final = {"hour": _HOUR_MS, "day": _DAY_MS, "week": 7 * _DAY_MS, "90d": 90 * _DAY_MS}
"""The length of each range, in milliseconds. A range ends now."""

_STEPS_OF: Final = {
    "hour": ("minute", "ten_minutes"),
    "day": ("ten_minutes", "minute", "hour"),
    "week": ("hour", "day"),
    "90d": ("day", "hour"),
}
"""The steps that a range may have, the default first."""

GROUPS: Final = ("service", "key", "account", "model", "tenant")
COUNTS: Final = (MEASURES[0], "accepted", *MEASURES[1:])
"""The counts in each row of a report: the measures, and the number of accepted calls."""


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """The range, the groups and the filters of a report.

    Attributes:
        range: One of `RANGES`.
        step: One of `STEPS`; empty for the default of the range.
        by: The names to group by, from `GROUPS`.
        only: The filters: pairs of a name from `GROUPS` and the only value to show.

    Raises:
        ValueError: The query is not valid. The message says what to change.
    """

    range: str = "day"
    step: str = ""
    by: tuple[str, ...] = ("service",)
    only: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.range not in RANGES:
            raise ValueError(f"range must be one of: {', '.join(RANGES)}.")
        if self.step and self.step not in _STEPS_OF[self.range]:
            steps = ", ".join(_STEPS_OF[self.range])
            raise ValueError(f"step must be one of these for the range {self.range}: {steps}.")
        named = {*self.by, *(name for name, _ in self.only)}
        if not named <= {*GROUPS}:
            raise ValueError(f"by must be one or several of: {', '.join(GROUPS)}.")
        if "tenant" in named and named & {"key", "account"}:
            raise ValueError(
                "A tenant's usage is not kept by key: leave out tenant, or key and account."
            )

    @classmethod
    def of(cls, values: dict[str, str]) -> Self:
        """Read a query from texts, with the names of `by` separated by commas.

        The report is always grouped by service, too.

        Raises:
            ValueError: The query is not valid. The message says what to change.
        """
        by = tuple(dict.fromkeys(("service", *values.get("by", "service").split(","))))
        only = tuple((name, values[name]) for name in GROUPS if values.get(name))
        return cls(values.get("range", "day"), values.get("step", ""), by, only)

    @property
    def step_ms(self) -> int:
        """The length of a step, in milliseconds."""
        return STEPS[self.step or _STEPS_OF[self.range][0]]

    @property
    def unit(self) -> Unit:
        """The unit of the counts that the report adds up."""
        return Unit.MINUTE if RANGES[self.range] <= _DAY_MS else Unit.HOUR

    def first_ms(self, now_ms: int) -> int:
        """Return when the first step begins, in milliseconds since 1970, if the range ends now."""
        return now_ms - now_ms % self.step_ms - RANGES[self.range] + self.step_ms

    def shows(self, series: Series) -> bool:
        """Return whether the report includes a series."""
        named = {*self.by, *(name for name, _ in self.only)}
        return bool(series.tenant) is ("tenant" in named) and all(
            getattr(series, name) == value for name, value in self.only
        )


class Row:
    """The usage of one group in one step, or in the whole range.

    Args:
        group: The values of the names that the report is grouped by.
        at_ms: When the step began, in milliseconds since 1970; None for the whole range.

    Attributes:
        counts: One number for each measure.
        cost_usd: The cost, in USD; None if no part of the usage has a price.
    """

    __slots__ = ("at_ms", "cost_usd", "counts", "group")

    def __init__(self, group: tuple[str, ...], at_ms: int | None) -> None:
        self.group = group
        self.at_ms = at_ms
        self.counts = [0] * len(MEASURES)
        self.cost_usd: float | None = None

    def add(self, counts: Sequence[int], cost_usd: float | None) -> None:
        """Add the counts and the cost of one series."""
        self.counts = [count + other for count, other in zip(self.counts, counts, strict=True)]
        if cost_usd is not None:
            self.cost_usd = (self.cost_usd or 0.0) + cost_usd

    def __getitem__(self, name: str) -> int:
        """Return one of `COUNTS`, by its name."""
        if name == "accepted":
            return self["calls"] - self["refused"] - self["faults"] - self["rejected"]
        return self.counts[MEASURES.index(name)]

    def values(self) -> dict[str, Any]:
        """Return all of `COUNTS`, and the cost."""
        cost_usd = None if self.cost_usd is None else round(self.cost_usd, 9)
        return {name: self[name] for name in COUNTS} | {"cost_usd": cost_usd}


@dataclass(frozen=True, slots=True)
class UsageReport:
    """The answer to a query.

    Attributes:
        query: The query.
        first_ms: When the first step began, in milliseconds since 1970.
        now_ms: When the report was made, in milliseconds since 1970.
        rows: The usage by step and group, oldest first. A step without usage has no row.
        totals: The usage of each group in the whole range, groups with the most calls first.
        unpriced: The models without a price that were used, and the services whose emails have no
            price. Empty if there are no prices at all.
    """

    query: UsageQuery
    first_ms: int
    now_ms: int
    rows: tuple[Row, ...]
    totals: tuple[Row, ...]
    unpriced: tuple[str, ...] = ()

    @classmethod
    async def make(cls, store: UsageStore, query: UsageQuery, prices: Prices | None) -> Self:
        """Read the usage, and add it up.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        now_ms = await store.now_ms()
        first_ms = query.first_ms(now_ms)
        counted = store.read(
            query.unit,
            first_ms=first_ms,
            last_ms=now_ms,
            step_ms=query.step_ms,
            wanted=query.shows,
        )
        return await cls._of(counted, query, prices, first_ms=first_ms, now_ms=now_ms)

    @classmethod
    async def _of(
        cls,
        counted: AsyncIterator[Counted],
        query: UsageQuery,
        prices: Prices | None,
        *,
        first_ms: int,
        now_ms: int,
    ) -> Self:
        rows: dict[tuple[int, tuple[str, ...]], Row] = {}
        totals: dict[tuple[str, ...], Row] = {}
        unpriced: set[str] = set()
        async for step in counted:
            group = tuple(getattr(step.series, name) for name in query.by)
            cost_usd = None if prices is None else _cost_usd(prices, step)
            if prices is not None and cost_usd is None:
                unpriced.add(step.series.model or step.series.service)
            for row in (
                rows.setdefault((step.at_ms, group), Row(group, step.at_ms)),
                totals.setdefault(group, Row(group, None)),
            ):
                row.add(step.counts, cost_usd)
        return cls(
            query,
            first_ms,
            now_ms,
            tuple(rows[name] for name in sorted(rows)),
            tuple(sorted(totals.values(), key=lambda row: (-row["calls"], row.group))),
            tuple(sorted(unpriced)),
        )

    def as_json(self, labels: Mapping[str, str]) -> dict[str, Any]:
        """Return the report in JSON types.

        Args:
            labels: The labels of the known keys, by the keys' ids.
        """
        query = self.query
        return {
            "range": query.range,
            "step_ms": query.step_ms,
            "first_ms": self.first_ms,
            "now_ms": self.now_ms,
            "by": list(query.by),
            "only": dict(query.only),
            "rows": [
                {"at_ms": row.at_ms} | self._named(row, labels) | row.values() for row in self.rows
            ],
            "totals": [self._named(row, labels) | row.values() for row in self.totals],
            "unpriced": list(self.unpriced),
        }

    def as_csv(self, labels: Mapping[str, str]) -> str:
        """Return the rows as CSV, below a line of column names; times are UTC.

        Args:
            labels: The labels of the known keys, by the keys' ids.
        """
        text = StringIO()
        names = [name for by in self.query.by for name in (by, "label")[: 1 + (by == "key")]]
        lines = csv.writer(text)
        lines.writerow(["time", *names, *COUNTS, "cost_usd"])
        for row in self.rows:
            time = datetime.fromtimestamp((row.at_ms or 0) / 1000, UTC).strftime(_TIME_FORMAT)
            group = map(_plain, self._named(row, labels).values())
            lines.writerow([time, *group, *row.values().values()])
        return text.getvalue()

    def _named(self, row: Row, labels: Mapping[str, str]) -> dict[str, str]:
        named: dict[str, str] = {}
        for name, value in zip(self.query.by, row.group, strict=True):
            named[name] = value
            if name == "key":
                named["label"] = labels.get(value, "")
        return named


def _cost_usd(prices: Prices, counted: Counted) -> float | None:
    used = dict(zip(MEASURES, counted.counts, strict=True))
    return prices.cost_usd(
        counted.series.service,
        counted.series.model,
        prompt=used["prompt_tokens"],
        cached=used["cached_tokens"],
        output=used["output_tokens"],
        emails=used["emails"],
    )


def _plain(text: str) -> str:
    """Put an apostrophe before each part of a name that a spreadsheet may take for a formula."""
    return _FORMULA_RE.sub("'", text)
