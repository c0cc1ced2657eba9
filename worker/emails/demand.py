"""Counts the emails that wait for a key in this process, for backpressure."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from worker.emails.batching import MOST_IN_BATCH, BatchQueue
from worker.rotation.demand import Demand

_MOST_CAPACITY = 4 * MOST_IN_BATCH
"""How many emails may wait if they go out in batches: enough for a few full batches."""


class EmailDemand:
    """Counts the emails that wait for a key of their own, or to go along with a leader.

    Args:
        calls: The demand for leases, by leaders and by emails that go alone.
        queues: The emails that may go along, by from-domain, excluded keys and priority.
        went_alone: For each of the latest emails, whether it had to go alone.
    """

    def __init__(
        self,
        calls: Demand,
        queues: Mapping[tuple[str, frozenset[str], bool], BatchQueue],
        went_alone: Collection[bool],
    ) -> None:
        self._calls: Final = calls
        self._queues: Final = queues
        self._went_alone: Final = went_alone

    @property
    def on_full(self) -> Callable[[], None] | None:
        """Called when more emails wait than there is room for, or no key serves for long."""
        return self._calls.on_full

    @on_full.setter
    def on_full(self, on_full: Callable[[], None] | None) -> None:
        self._calls.on_full = on_full

    def count(self, *, bulk: bool) -> int:
        """Return how many emails wait, bulk or not."""
        batched = sum(
            len(queue.waiters)
            for (_, _, is_bulk), queue in list(self._queues.items())
            if is_bulk is bulk
        )
        return batched + self._calls.count(bulk=bulk)

    def shortest(self, *, bulk: bool) -> int:
        """Return the count of all queues, because emails of all senders wait for the same teams."""
        return self.count(bulk=bulk)

    def capacity(self) -> int:
        """Return how many emails may wait: fewer, the more of them need a call of their own.

        Before the first email, each email is assumed to need one.
        """
        calls, went_alone = self._calls.capacity(), list(self._went_alone)
        together = calls * len(went_alone) // max(1, sum(went_alone))
        return max(calls, min(_MOST_CAPACITY, together))

    def resting_s(self) -> float:
        """Return for how many seconds no key serves any email; 0: a key serves one now."""
        return self._calls.resting_s()

    def may_block_others(self) -> bool:
        """Return False, because all emails wait for the same keys."""
        return False

    def note_upcoming(self, kinds: Iterable[tuple[tuple[str, ...], bool]]) -> None:
        """Do nothing, because all emails wait for the same keys."""
