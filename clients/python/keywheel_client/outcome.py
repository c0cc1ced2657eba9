"""Returns the result of a job that has ended, or raises its error."""

from typing import Any

from keywheel_client.errors import JobCancelled, JobFailed
from keywheel_client.status import Status


def outcome_of(job: str, status: Status) -> Any:
    """Return the result of a job that has ended.

    Args:
        job: The job's id.
        status: The status of the job.

    Raises:
        JobCancelled: The job was cancelled.
        JobFailed: The job failed.
    """
    if status.state == "done":
        return status.result
    kind = JobCancelled if status.state == "cancelled" else JobFailed
    raise kind(job, status.error, status.reason)
