"""What a job needs of its pool."""

import asyncio
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Protocol

from worker.aio.bridge import JobGreenlets
from worker.aio.consumer_calls import ConsumerCalls
from worker.aio.lost_runs import LostRuns

if TYPE_CHECKING:
    from worker.aio.job import Job


class Slots(Protocol):
    """Gives a job its slot."""

    def on_over(self, job: "Job") -> None:
        """The job's end is known, and its slot is free.

        It may still run for a while, or for ever.
        """

    def on_done(self, job: "Job") -> None:
        """The job has ended and its slot is free."""


class Host(Protocol):
    """What a job needs of its pool."""

    calls: ConsumerCalls
    loop: asyncio.AbstractEventLoop
    task_threads: Executor
    call_threads: Executor
    greenlets: JobGreenlets
    lost_runs: LostRuns

    @property
    def jobs(self) -> Slots:
        """Whose slot the job has."""
