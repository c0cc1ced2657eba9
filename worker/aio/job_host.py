"""What a job needs of its pool."""

import asyncio
from concurrent.futures import Executor
from typing import Any, Protocol

from worker.aio.bridge import JobGreenlets
from worker.aio.consumer_calls import ConsumerCalls
from worker.aio.lost_runs import LostRuns


class Slots(Protocol):
    """Has the slots of jobs."""

    def on_over(self, job: Any) -> None:
        """Free the slot of a job whose end is known, although it may still run."""

    def on_done(self, job: Any) -> None:
        """Note that a job has ended."""


class Host(Protocol):
    """The pool, as its jobs use it."""

    calls: ConsumerCalls
    loop: asyncio.AbstractEventLoop
    task_threads: Executor
    call_threads: Executor
    greenlets: JobGreenlets
    lost_runs: LostRuns

    @property
    def jobs(self) -> Slots:
        """Where the job has its slot."""
