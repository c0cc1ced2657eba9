"""Holds the time limits of a job whose work is over, while Redis is yet to hear of it."""

from worker.aio import stacks
from worker.aio.job import Job


class HeldTimeLimits:
    """No time limit ends the running job within the block. Outside a job it does nothing.

    The calls of a job may overlap, and so may these blocks: the limits hold again after the last.
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
