"""Keeps the jobs of a pool that wait or run, and starts waiting jobs when slots are free."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import copy_context
from typing import Final

from worker.aio.job import Job
from worker.aio.task_limits import TaskLimits
from worker.aio.threads import DaemonThreads


class JobQueue:
    """The jobs that wait until they may start.

    `put`, `drop` and `len` may be called from any thread, everything else on the loop's thread.

    Attributes:
        limits: The `concurrency_limit` of each task.
    """

    def __init__(self) -> None:
        self.limits = TaskLimits()
        self._incoming: deque[Job] = deque()
        self._waiting: deque[Job] = deque()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._incoming) + sum(map(len, self.limits.waiting()))

    @property
    def has_next(self) -> bool:
        """Whether a job waits for a slot; jobs that wait for their task's limit do not count."""
        return bool(self._waiting or self._incoming)

    def put(self, job: Job) -> None:
        """Add a job at the end."""
        self._incoming.append(job)

    def take(self, most: int, *, has_slot: Callable[[], bool]) -> Iterator[Job]:
        """Yield the jobs that may start now.

        Args:
            most: The most jobs to look at.
            has_slot: Returns whether one more job may start; called before each job.
        """
        with suppress(IndexError):
            while True:
                self._waiting.append(self._incoming.popleft())
        for _ in range(most):
            if not has_slot():
                return
            try:
                job = self._waiting.popleft()
            except IndexError:  # the consumer's thread may call `drop` at any time
                return
            if self.limits.admit(job):
                yield job

    def release(self, job: Job) -> None:
        """Note that a job has ended, and move the next job of its task to the front."""
        if (following := self.limits.release(job)) is not None:
            self._waiting.appendleft(following)

    def drop(self, tags: set[str] | None) -> tuple[list[Job], bool]:
        """Remove jobs.

        Args:
            tags: The delivery tags of the jobs' messages; None removes all jobs.

        Returns:
            The removed jobs, and whether other jobs stay.
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


_STARTS_A_TURN: Final = 8
"""The most jobs to start before the loop polls its sockets again, so that running jobs go on."""


class Jobs:
    """The jobs of a pool. A job waits, not yet accepted, until one of `limit` slots is free.

    Args:
        limit: How many jobs may run at once.

    Attributes:
        limit: How many jobs may run at once.
        draining: True if no further job may start.
        queue: The jobs that wait.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.draining = False
        self.queue = JobQueue()
        self._loop: asyncio.AbstractEventLoop
        self._threads: DaemonThreads
        self._by_pid: dict[int, Job] = {}
        """All jobs that wait or run, by their numbers."""
        self._running = 0
        self._released: set[Job] = set()
        """Jobs that still run although their end is decided; they occupy no slot."""
        self._admit_scheduled = False
        self._context = copy_context()
        """Jobs start in copies of this context, not in that of the job that has freed the slot."""

    def run_on(self, loop: asyncio.AbstractEventLoop, threads: DaemonThreads) -> None:
        """Set the loop for async jobs, and the threads for plain functions."""
        self._loop, self._threads = loop, threads

    @property
    def running(self) -> int:
        """How many jobs run."""
        return self._running

    @property
    def unsettled(self) -> int:
        """How many jobs run whose end is not decided yet; each occupies a slot."""
        return self._running - len(self._released)

    # -- from any thread

    def put(self, job: Job) -> None:
        """Add a job, to start when a slot is free."""
        self._by_pid[job.pid] = job
        self.queue.put(job)
        self.admit_soon()

    def get(self, pid: int) -> Job | None:
        """Return a job by its number, if it waits or runs."""
        return self._by_pid.get(pid)

    def all(self) -> list[Job]:
        """Return all jobs that wait or run."""
        return list(self._by_pid.values())

    def drop(self, tags: set[str] | None = None) -> None:
        """Drop waiting jobs; the broker delivers them again.

        Args:
            tags: The delivery tags of the jobs' messages; None drops all waiting jobs.
        """
        dropped, others_stay = self.queue.drop(tags)
        for job in dropped:
            self._by_pid.pop(job.pid, None)
        if others_stay:
            self.admit_soon()

    def admit_soon(self) -> None:
        """Schedule the start of waiting jobs on the loop."""
        # As in `ConsumerCalls.post`, the callers append first, and the flag is checked afterwards.
        if not self._admit_scheduled:
            self._admit_scheduled = True
            with suppress(RuntimeError):  # the loop is closed: the pool has stopped
                self._loop.call_soon_threadsafe(self._admit, context=self._context)

    # -- on the loop's thread

    def _admit(self) -> None:
        self._admit_scheduled = False
        for job in self.queue.take(_STARTS_A_TURN, has_slot=self._has_slot):
            self._running += 1
            job.start()
        if self.queue.has_next and self._has_slot():
            self._admit_next()

    def _admit_next(self) -> None:
        if not self._admit_scheduled:
            self._admit_scheduled = True
            self._loop.call_soon(self._admit, context=self._context)

    def _has_slot(self) -> bool:
        return self.unsettled < self.limit and not self.draining

    def release_slot(self, job: Job) -> None:
        """Free the slot of a job whose end is decided, even while it runs. The job calls this."""
        self._released.add(job)
        self.queue.release(job)
        if job.in_thread:
            self._threads.write_off(1)
        self._admit_next()

    def on_done(self, job: Job) -> None:
        """Note that a job has ended, and free its slot if it still has one. The job calls this."""
        self._running -= 1
        if job not in self._released:
            self.queue.release(job)
        else:
            self._released.remove(job)
            if job.in_thread:
                self._threads.write_off(-1)
        self._by_pid.pop(job.pid, None)
        if self.queue.has_next:
            self._admit_next()
