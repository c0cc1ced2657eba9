"""Divides the outcome of a shared call among its jobs: a part of the answer, or an error."""

import random
from typing import Any, TypeVar, cast

from worker.errors import Deferred, RequestRejected, TransientError
from worker.rotation.served import Served
from worker.verdicts import Verdict

SOON_MS = 1_000
_SPREAD_MS = 500
"""Emails that were deferred together return within this time, so that they go out together."""

ResultT = TypeVar("ResultT")


def part_of(served: Served, index: int) -> Served:
    """Return one email's part of an answer.

    Raises:
        RequestRejected: Resend refused this email, but not the whole batch.
    """
    results = served.value.get("results")
    result = served.value if results is None else results[index]
    if "error" in result:
        raise RequestRejected(f"rejected: {result['error']}")
    return Served({"id": result["id"]}, served.key, attempts=0, waited_ms=0)


def own_copy(result: ResultT) -> ResultT:
    """Copy an error for one job: a shared error would collect the stacks of all jobs."""
    if not isinstance(result, Deferred | TransientError):
        return result
    copy: Any
    if isinstance(result, Deferred):
        countdown_ms = result.countdown_ms + random.randint(0, _SPREAD_MS)  # noqa: S311 - no secret
        copy = Deferred(countdown_ms, result.reason, result.code, result.ends_in_ms)
    else:
        copy = TransientError(result.reason, result.backoff_ms)
        copy.code, copy.own = result.code, result.own
    copy.in_doubt = result.in_doubt
    return cast("ResultT", copy)


def queue_timeout() -> Deferred:
    """Return the error of an email that waited too long in its queue."""
    countdown_ms = random.randint(SOON_MS, 3 * SOON_MS)  # noqa: S311 - no secret
    return Deferred(countdown_ms, "many emails wait for the rate limit")


def sent_elsewhere() -> Deferred:
    """Return the error of an email that another job is sending now."""
    error = Deferred(
        random.randint(SOON_MS, 2 * SOON_MS),  # noqa: S311 - no secret
        "another job is sending the same email",
        "same_email",
    )
    error.in_doubt = True
    return error


def leader_stopped() -> TransientError:
    """Return the error of a follower whose leader's job was stopped during the call."""
    error = TransientError("the job that made the call was stopped")
    error.own, error.in_doubt = False, True
    return error


def error_of(verdict: Verdict) -> TransientError:
    """Return the error of a job whose email may have been accepted in another job's call."""
    error = TransientError(verdict.reason or verdict.code, verdict.backoff_ms)
    error.own, error.in_doubt = False, True
    return error
