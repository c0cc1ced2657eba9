"""Holds the time limits of a job whose work is over, while Redis is yet to hear of it."""

from worker.aio import stacks
from worker.aio.job import Job


class HeldTimeLimits:
    """No time limit ends the running job within the block. Outside a job it does nothing."""

    def __init__(self) -> None:
        owner = stacks.owner()
        self._job = owner if isinstance(owner, Job) else None
        self._before = False

    def __enter__(self) -> None:
        if self._job is not None:
            self._before, self._job.waits_for_redis = self._job.waits_for_redis, True

    def __exit__(self, *_: object) -> None:
        if self._job is not None:
            self._job.waits_for_redis = self._before
