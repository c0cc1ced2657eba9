"""A counter of usage that keeps its counts in memory, for tests without Redis."""

from collections import Counter, defaultdict

from worker.usage import Series, UsageCounter


class NotedUsage(UsageCounter):
    """Adds up the counts of each series."""

    def __init__(self) -> None:
        super().__init__(None)
        self.of: defaultdict[Series, Counter[str]] = defaultdict(Counter)

    def count(self, series: Series, **counts: int) -> None:
        self.of[series].update(counts)

    def total(self, measure: str, *, tenant: str = "") -> int:
        """The sum over all keys, or over the models of a tenant."""
        return sum(counts[measure] for series, counts in self.of.items() if series.tenant == tenant)
