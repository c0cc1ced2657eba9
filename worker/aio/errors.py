"""What the pool itself raises.

asyncio.CancelledError └── SoftTimeLimit           also billiard's SoftTimeLimitExceeded: what a
coroutine sees at its await Exception ├── LostTooOften            the job has cost its worker too
often; no WorkerLostError, which Celery sends back again └── UnexpectedCancellation  a coroutine was
cancelled, and nobody asked for it BaseException ├── JobGone                 unwinds the tracer of a
job whose end was reported already ├── Revoked                 a job's body finds that the job is
revoked └── WorkerLost              unwinds the tracer of a job that meant to end the process
"""

import asyncio

from billiard.exceptions import SoftTimeLimitExceeded


class SoftTimeLimit(SoftTimeLimitExceeded, asyncio.CancelledError):
    """The soft time limit, as it arrives at an await.

    `except SoftTimeLimitExceeded` catches it, and so does everything in asyncio that reacts to a
    cancellation: a `TaskGroup` cancels its children, `asyncio.wait_for` its inner task.
    """


class UnexpectedCancellation(Exception):  # noqa: N818 - reads as a sentence in a result
    """The coroutine was cancelled, though neither a limit nor a person had asked for it."""


class LostTooOften(Exception):  # noqa: N818 - reads as a sentence in a result
    """So many runs of the job were lost with their worker that it does not run again."""


class JobGone(BaseException):
    """The job was reported as terminated or timed out.

    Whatever its body gives now is nobody's business.
    """


class Revoked(BaseException):
    """The job's body finds that its job is revoked.

    It ends as one that was revoked before it began.

    The body adds the job's id to `celery.worker.state.revoked` before, as Celery does where it
    hears of it.
    """


class WorkerLost(BaseException):
    """The body ran out of memory.

    Not an Exception, so that the tracer does not take it for a plain failure.
    """
