"""The jobs of a pool that have not begun, in the order in which they came."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

from worker.aio.job import Job
from worker.aio.task_limits import TaskLimits


class JobQueue:
    """Keeps jobs until they may start.

    `put`, `drop` and `len` may be called from any thread, everything else from the loop's.

    Attributes:
        limits: How many jobs of one task may run at once.
    """

    def __init__(self) -> None:
        self.limits = TaskLimits()
        self._incoming: deque[Job] = deque()
        self._waiting: deque[Job] = deque()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._incoming) + sum(map(len, self.limits.waiting()))

    @property
    def has_next(self) -> bool:
        """Whether a job waits for a slot, and not for another job of its task."""
        return bool(self._waiting or self._incoming)

    def put(self, job: Job) -> None:
        """Add a job at the end."""
        self._incoming.append(job)

    def take(self, most: int, *, has_slot: Callable[[], bool]) -> Iterator[Job]:
        """Yield the jobs that may start now.

        Args:
            most: The most jobs to look at.
            has_slot: Whether one more job may start; called before each.
        """
        with suppress(IndexError):
            while True:
                self._waiting.append(self._incoming.popleft())
        for _ in range(most):
            if not has_slot():
                return
            try:
                job = self._waiting.popleft()
            except IndexError:  # `drop` may empty it from the consumer's thread at any time
                return
            if self.limits.admit(job):
                yield job

    def release(self, job: Job) -> None:
        """Note that a job has ended; the next job of its task goes before all others."""
        if (following := self.limits.release(job)) is not None:
            self._waiting.appendleft(following)

    def drop(self, tags: set[str] | None) -> tuple[list[Job], bool]:
        """Remove jobs.

        Args:
            tags: Only the jobs of these messages; None: all.

        Returns:
            The removed jobs, and whether others stay.
        """
        dropped, stay = list[Job](), False
        for queue in (self._incoming, self._waiting, *self.limits.waiting()):
            kept = list[Job]()
            with suppress(IndexError):
                while True:
                    job = queue.popleft()
                    (dropped if tags is None or job.delivery_tag in tags else kept).append(job)
            queue.extendleft(reversed(kept))
            stay = stay or bool(kept)
        return dropped, stay
