"""The jobs of a pool that have not begun, in the order of their coming."""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

from worker.aio.job import Job
from worker.aio.task_limits import TaskLimits


class JobQueue:
    """Keeps jobs until they may start.

    `put`, `drop` and `len` may be called from any thread, the rest from the loop's.

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
        """Whether a job waits for a slot alone, and not for others of its task."""
        return bool(self._waiting or self._incoming)

    def put(self, job: Job) -> None:
        """Let a job wait behind all others."""
        self._incoming.append(job)

    def take(self, most: int, *, has_slot: Callable[[], bool]) -> Iterator[Job]:
        """Give the jobs that may start now.

        Args:
            most: Look at no more jobs than these.
            has_slot: Whether one more may start; asked before each.
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
        """A job has ended: the next one of its task goes before all others."""
        if (following := self.limits.release(job)) is not None:
            self._waiting.appendleft(following)

    def drop(self, tags: set[str] | None) -> tuple[list[Job], bool]:
        """Take jobs out.

        Args:
            tags: Only the jobs of these messages; None: all.

        Returns:
            The jobs, and whether others stay.
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
