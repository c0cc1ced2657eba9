"""The outcome of a job that has ended: its result, or its error."""

from typing import Any

from keywheel_client.errors import JobCancelled, JobFailed
from keywheel_client.status import Status


def outcome_of(job: str, status: Status) -> Any:
    """Give the result of a job that has ended.

    Args:
        job: The job's id.
        status: How it has ended.

    Raises:
        JobCancelled: It was cancelled.
        JobFailed: It failed.
    """
    if status.state == "done":
        return status.result
    kind = JobCancelled if status.state == "cancelled" else JobFailed
    raise kind(job, status.error, status.reason)
