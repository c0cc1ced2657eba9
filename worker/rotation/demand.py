"""Compares the jobs that wait in this process with what a service's keys serve soon.

Backpressure (`worker.hooks.backpressure`) decides by this comparison.
"""

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Final

from worker.keypool import HORIZON_MS, TENANT_HORIZON_MS
from worker.rotation.wait_queue import Kind, Shape, WaitQueue

_UPCOMING_S = 2.5
"""How long a reading of the broker's queue counts as current."""
_LEAST_CAPACITY = 8
_MOST_CAPACITY = 32
"""The largest capacity while tenants take turns: jobs in the broker cannot pass waiting jobs."""
_TENANTS_S = 10.0
"""How long tenants count as taking turns after the latest job with a tenant."""
_MOST_GRANTS = 10_000


class Demand:
    """Compares the jobs that wait with the leases that are granted.

    Args:
        queues: The wait queues of the service. Their owner adds and removes them.
    """

    def __init__(self, queues: Mapping[Shape, WaitQueue]) -> None:
        self._queues: Final = queues
        self._granted_s: deque[float] = deque(maxlen=_MOST_GRANTS)
        self._upcoming: dict[Kind, float] = {}  # when it was seen
        self._tenant_s = float("-inf")
        self.on_full: Callable[[], None] | None = None
        """Called when more jobs wait than there is room for, or when no key serves for long."""

        self.others_pass: Callable[[bool], bool] = lambda _: False
        """Returns whether another service's jobs in the queue, bulk or not, can be served soon."""

    def report_full(self) -> None:
        """Make backpressure look at the queue now."""
        if self.on_full is not None:
            self.on_full()

    def note_granted(self, queue: WaitQueue) -> None:
        """Count a lease that a job of this queue got."""
        now_s, since_s = time.monotonic(), time.monotonic() - HORIZON_MS / 1000
        for granted_s in (self._granted_s, queue.granted_s):
            granted_s.append(now_s)
            while granted_s[0] < since_s or len(granted_s) > _MOST_GRANTS:
                granted_s.popleft()
        queue.resting_until_s = 0.0

    def count(self, *, bulk: bool) -> int:
        """Return how many jobs wait, bulk or not."""
        return sum(
            len(queue.waiters) for queue in list(self._queues.values()) if queue.bulk is bulk
        )

    def capacity(self) -> int:
        """Return how many jobs may wait in one queue.

        That is the number of leases granted within the latest horizon, but at least a few. While
        tenants take turns, it is smaller. Any thread may call this.
        """
        now_s, granted_s = time.monotonic(), list(self._granted_s)
        by_tenant = now_s < self._tenant_s + _TENANTS_S
        since_s = now_s - (TENANT_HORIZON_MS if by_tenant else HORIZON_MS) / 1000
        count = max(_LEAST_CAPACITY, len(granted_s) - bisect_left(granted_s, since_s))
        return min(count, _MOST_CAPACITY) if by_tenant else count

    def note_tenant(self) -> None:
        """Note that a job with a tenant asks for a lease."""
        self._tenant_s = time.monotonic()

    def shortest(self, *, bulk: bool) -> int:
        """Return how many jobs wait in the shortest queue that is in use and can be served.

        It is 0 if jobs are about to arrive that have no queue yet.
        """
        now_s = time.monotonic()
        queues, without_queue = self._expected(bulk=bulk)
        if without_queue:
            return 0
        return min(
            (len(queue.waiters) for queue in queues if queue.resting_until_s < now_s), default=0
        )

    def resting_s(self) -> float:
        """Return for how many seconds no key serves any expected job; 0: a key serves one now."""
        queues, without_queue = self._expected()
        if without_queue:
            return 0.0
        until_s = min((queue.resting_until_s for queue in queues), default=0.0)
        return max(0.0, until_s - time.monotonic())

    def note_upcoming(self, kinds: Iterable[Kind]) -> None:
        """Note the kinds of the next jobs in the broker's queue.

        Jobs that can be served are to pass those that cannot. Any thread may call this.

        Args:
            kinds: The kinds, each with the models that its jobs may use, and whether it is bulk.
        """
        now_s = time.monotonic()
        self._upcoming = self._seen_lately(now_s) | dict.fromkeys(kinds, now_s)

    def _seen_lately(self, now_s: float) -> dict[Kind, float]:
        since_s = now_s - _UPCOMING_S
        return {kind: seen_s for kind, seen_s in self._upcoming.items() if seen_s > since_s}

    def may_block_others(self) -> bool:
        """Return whether jobs of one kind may keep others in the broker's queue from their keys."""
        now_s = time.monotonic()
        queues = self._in_line()
        if any(queue.resting_until_s > now_s for queue in queues):
            return True
        longest = max((len(queue.waiters) for queue in queues), default=0)
        return longest >= self.capacity() // 2

    def _in_line(self, sorts: Container[bool] = (False, True)) -> list[WaitQueue]:
        """Return the queues with a wait list, for bulk jobs, for interactive jobs, or for both."""
        queues = list(self._queues.values())
        return [queue for queue in queues if queue.wait_list and queue.bulk in sorts]

    def _expected(self, *, bulk: bool | None = None) -> tuple[list[WaitQueue], bool]:
        """Return the queues that jobs arrive in, and whether jobs come that have no queue yet.

        If nothing is known of the broker's queue, jobs are expected in the queues that are in use.
        """
        now_s = time.monotonic()
        sorts = {True, False} if bulk is None else {bulk}
        queues = self._in_line(sorts)
        upcoming = {kind for kind in self._seen_lately(now_s) if kind[1] in sorts}
        if not upcoming:
            return [queue for queue in queues if queue.is_in_use(now_s)], False
        expected = [queue for queue in queues if queue.kind in upcoming]
        return expected, upcoming != {queue.kind for queue in expected}
