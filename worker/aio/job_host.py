"""Declares the parts of the pool that a job uses."""

import asyncio
from concurrent.futures import Executor
from typing import Any, Protocol

from worker.aio.bridge import JobGreenlets
from worker.aio.consumer_calls import ConsumerCalls
from worker.aio.lost_runs import LostRuns


class Slots(Protocol):
    """The slots that running jobs occupy."""

    def release_slot(self, job: Any) -> None:
        """Free the slot of a job whose end is decided, although the job may still run."""

    def on_done(self, job: Any) -> None:
        """Note that a job has ended."""


class Host(Protocol):
    """The attributes of the pool that jobs use."""

    calls: ConsumerCalls
    loop: asyncio.AbstractEventLoop
    task_threads: Executor
    call_threads: Executor
    greenlets: JobGreenlets
    lost_runs: LostRuns

    @property
    def jobs(self) -> Slots:
        """The slots of the pool's jobs."""
