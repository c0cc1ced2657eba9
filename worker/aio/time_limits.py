"""Suspends a job's time limits while it waits for Redis: the limits are meant for its work."""

from worker.aio import stacks
from worker.aio.job import Job


class HeldTimeLimits:
    """A `with` block in which no time limit ends the running job. Outside a job it does nothing.

    The blocks of one job may overlap; the limits apply again after the last block has ended.
    """

    def __init__(self) -> None:
        owner = stacks.owner()
        self._job = owner if isinstance(owner, Job) else None

    def __enter__(self) -> None:
        if self._job is not None:
            self._job.redis_waits += 1

    def __exit__(self, *_: object) -> None:
        if self._job is not None:
            self._job.redis_waits -= 1
