"""Limits how many jobs of one task run at once in this worker, by its `concurrency_limit`."""

from collections import Counter, deque
from typing import Any

from worker.aio.job import Job


class TaskLimits:
    """The tasks' limits, with the jobs that wait until another job of their task has ended.

    Use it on the loop's thread; other threads may only remove jobs from the queues of `waiting`.
    """

    def __init__(self) -> None:
        self._limits: dict[str, int] = {}
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, deque[Job]] = {}

    def set_from(self, task: Any) -> None:
        """Read a task's `concurrency_limit`, which may be missing. From any thread.

        Raises:
            ValueError: The limit is not a positive whole number.
        """
        limit = getattr(task, "concurrency_limit", None)
        if limit is None:
            self._limits.pop(task.name, None)
            return
        if type(limit) is not int or limit < 1:
            raise ValueError(
                f"{task.name}.concurrency_limit must be a positive whole number, not {limit!r}"
            )
        self._waiting.setdefault(task.name, deque())
        self._limits[task.name] = limit

    def waiting(self) -> tuple["deque[Job]", ...]:
        """Return the queues of jobs that wait for another job of their task."""
        return tuple(self._waiting.values())

    def admit(self, job: Job) -> bool:
        """Return true if a job may start, and count it; otherwise keep the job until `release`."""
        limit = self._limits.get(job.name)
        if limit is not None and self._running[job.name] >= limit:
            self._waiting[job.name].append(job)
            return False
        if limit is not None or job.name in self._running:
            self._running[job.name] += 1
        return True

    def release(self, job: Job) -> Job | None:
        """Note that a job has freed its slot, and return the next job of its task."""
        name = job.name
        if self._running[name] > 0:
            self._running[name] -= 1
        waiting = self._waiting.get(name)
        try:
            return waiting.popleft() if waiting else None
        except IndexError:  # the consumer's thread may empty the queue at any time
            return None
