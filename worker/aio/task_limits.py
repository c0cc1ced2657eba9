"""How many jobs of one task may run at a time in this worker.

The task's attribute `concurrency_limit`.
"""

from collections import Counter, deque
from typing import Any

from worker.aio.job import Job


class TaskLimits:
    """Keeps jobs that are beyond their task's limit until one of that task has ended.

    On the loop's thread, but for `waiting` and what its queues lose.
    """

    def __init__(self) -> None:
        self._limits: dict[str, int] = {}
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, deque[Job]] = {}

    def set_from(self, task: Any) -> None:
        """Learn a task's limit, or that it has none. From any thread.

        Raises:
            ValueError: The limit is no positive whole number.
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
        """The queues of the jobs that wait for another one of their task."""
        return tuple(self._waiting.values())

    def admit(self, job: Job) -> bool:
        """Count a job that may start; keep any other."""
        limit = self._limits.get(job.name)
        if limit is not None and self._running[job.name] >= limit:
            self._waiting[job.name].append(job)
            return False
        if limit is not None or job.name in self._running:
            self._running[job.name] += 1
        return True

    def release(self, job: Job) -> Job | None:
        """Note that a job has freed its slot, and give the next one of its task."""
        name = job.name
        if self._running[name] > 0:
            self._running[name] -= 1
        waiting = self._waiting.get(name)
        try:
            return waiting.popleft() if waiting else None
        except IndexError:  # the consumer's thread may empty it at any time
            return None
