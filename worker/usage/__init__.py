"""What the keys were used for, minute by minute: counted in the workers and kept in Redis."""

from worker.usage.counter import NOT_COUNTED, UsageCounter
from worker.usage.series import MEASURES, OTHERS, Counts, Series
from worker.usage.store import Counted, Unit, UsageStore

__all__ = [
    "MEASURES",
    "NOT_COUNTED",
    "OTHERS",
    "Counted",
    "Counts",
    "Series",
    "Unit",
    "UsageCounter",
    "UsageStore",
]
