"""Defines the errors of the pool itself.

asyncio.CancelledError
└── SoftTimeLimit           also billiard's SoftTimeLimitExceeded: raised at a coroutine's await
Exception
├── LostTooOften            the job was lost with its worker too often; not a WorkerLostError,
│                           because Celery would send the job back to its queue after one
└── UnexpectedCancellation  a coroutine was cancelled, but not by a limit or a revoke
BaseException
├── JobGone                 unwinds the tracer of a job whose end is decided already
├── Revoked                 ends a job whose body finds that the job is revoked
└── WorkerLost              unwinds the tracer of a job that tried to end the process
"""

import asyncio

from billiard.exceptions import SoftTimeLimitExceeded


class SoftTimeLimit(SoftTimeLimitExceeded, asyncio.CancelledError):
    """The soft time limit, raised at a coroutine's await.

    `except SoftTimeLimitExceeded` catches it. asyncio treats it as a cancellation: a `TaskGroup`
    cancels its children, and `asyncio.wait_for` cancels its inner task.
    """


class UnexpectedCancellation(Exception):  # noqa: N818 - reads as a sentence in a result
    """The coroutine was cancelled, and neither a time limit nor a revoke was the reason."""


class LostTooOften(Exception):  # noqa: N818 - reads as a sentence in a result
    """Too many runs of the job were lost with their worker, so it does not run again."""


class JobGone(BaseException):
    """The end of the job is decided already, so the result of its body is dropped."""


class Revoked(BaseException):
    """The body found that its job is revoked, so the job ends as if it had not begun.

    Before it raises this, the body adds the job's id to `celery.worker.state.revoked`.
    """


class WorkerLost(BaseException):
    """The body ran out of memory.

    This is not an `Exception`, because Celery's tracer would report one as a plain failure.
    """
