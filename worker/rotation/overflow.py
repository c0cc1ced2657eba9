"""Sends jobs of a full wait queue back to the broker, so that jobs of other kinds can pass."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context
from typing import Final

from worker.keypool import HORIZON_MS, NoLease, NoLeaseReason
from worker.rotation.demand import Demand
from worker.rotation.wait_queue import Shape, WaitQueue

_LONGEST_S = 60.0
"""The longest time for which a job is sent back."""
_RECALL_S = 0.25
"""How often to check whether there is room again for jobs that were sent back, in seconds."""


class Overflow:
    """Sends jobs back to the broker, and recalls them as soon as there is room for them.

    Args:
        queues: The wait queues of the service.
        demand: Says how many jobs may wait.
    """

    def __init__(self, queues: Mapping[Shape, WaitQueue], demand: Demand) -> None:
        self._queues: Final = queues
        self._demand: Final = demand
        self._recalling: asyncio.Task[None] | None = None
        self._closed = False
        self.recall: Callable[[list[str]], Awaitable[None]] | None = None
        """Called with the ids of jobs that were sent back, once there is room for them."""

    def close(self) -> None:
        """Recall no more jobs, because this worker ends."""
        self._closed = True

    def relieve(self, queue: WaitQueue) -> None:
        """Send a queue's youngest job back if the queue is full and jobs of another kind can pass.

        Call this when a job has just arrived in the queue.
        """
        capacity, shortest = self._demand.capacity(), self._demand.shortest(bulk=queue.bulk)
        others_pass = shortest <= capacity // 2 or self._demand.others_pass(queue.bulk)
        if others_pass and len(queue.waiters) > capacity:
            self._send_back(queue)
        elif shortest == capacity:
            self._demand.report_full()

    def _send_back(self, queue: WaitQueue) -> None:
        """Send the youngest job back until the jobs before it should have been served."""
        now_s = time.monotonic()
        while queue.granted_s and queue.granted_s[0] < now_s - HORIZON_MS / 1000:
            queue.granted_s.popleft()
        step_s = HORIZON_MS / 1000 / max(1, len(queue.granted_s))
        last_s = queue.sent_back[-1][0] if queue.sent_back else 0.0
        served_s = max(last_s, now_s + len(queue.waiters) * step_s)
        back_s = min(served_s + step_s, now_s + _LONGEST_S)
        youngest = queue.waiters[-1]
        queue.sent_back.append((back_s, youngest.lease_request.by))
        away_ms = round((back_s - now_s) * 1000)
        reason = "many jobs of its kind wait"
        queue.deliver(youngest, NoLease(NoLeaseReason.RESTING, first_in_ms=away_ms, reason=reason))
        if self._recalling is None and self.recall is not None:
            self._recalling = asyncio.get_running_loop().create_task(
                self._recall(self.recall), context=Context()
            )

    async def _recall(self, recall: Callable[[list[str]], Awaitable[None]]) -> None:
        try:
            while any(queue.sent_back for queue in list(self._queues.values())):
                await asyncio.sleep(_RECALL_S)
                if self._closed:
                    return
                ids = [by for queue in list(self._queues.values()) for by in self._fitting(queue)]
                if ids:
                    await recall(ids)
        finally:
            self._recalling = None

    def _fitting(self, queue: WaitQueue) -> list[str]:
        """Take out the jobs that a queue has room for again; jobs that are due need no recall."""
        now_s, capacity = time.monotonic(), self._demand.capacity()
        while queue.sent_back and queue.sent_back[0][0] < now_s:
            queue.sent_back.popleft()
        if queue.resting_until_s > now_s or len(queue.waiters) > capacity * 3 // 4:
            return []
        room = min(len(queue.sent_back), capacity - len(queue.waiters))
        return [queue.sent_back.popleft()[1] for _ in range(room)]
