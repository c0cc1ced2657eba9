"""Counts the usage of keys in the workers, keeps it in Redis, and reports it."""

from worker.usage.counter import NO_USAGE, UsageCounter
from worker.usage.report import COUNTS, GROUPS, RANGES, STEPS, Row, UsageQuery, UsageReport
from worker.usage.series import MEASURES, OTHERS, Counts, Series
from worker.usage.store import Counted, Unit, UsageStore

__all__ = [
    "COUNTS",
    "GROUPS",
    "MEASURES",
    "NO_USAGE",
    "OTHERS",
    "RANGES",
    "STEPS",
    "Counted",
    "Counts",
    "Row",
    "Series",
    "Unit",
    "UsageCounter",
    "UsageQuery",
    "UsageReport",
    "UsageStore",
]
