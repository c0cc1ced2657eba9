"""The errors of this package, as one tree.

KeywheelError
├── JobFailed          the job has ended without a result
│   └── JobCancelled   because a person cancelled it
├── ResultTimeout      the job has not ended in time; it goes on
├── Unavailable        Redis cannot be reached, or rejects the command
└── UnreadableRecord   the job's record in Redis cannot be read
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keywheel_client.status import Status


class KeywheelError(Exception):
    """Base of every error of this package."""


class JobFailed(KeywheelError):  # noqa: N818 - reads as a sentence where it is caught
    """A job has ended without a result.

    Attributes:
        job: The job's id.
        name: The error's name, such as `InvalidArguments`; docs/results.md lists them.
        reason: What went wrong, in a sentence.
    """

    def __init__(self, job: str, name: str, reason: str) -> None:
        super().__init__(job, name, reason)
        self.job = job
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class JobCancelled(JobFailed):
    """A job has ended because it was cancelled."""


class ResultTimeout(KeywheelError, TimeoutError):  # noqa: N818
    """A job has not ended in time. It goes on: ask for its result again, or cancel it.

    Attributes:
        job: The job's id.
        status: The status of the job; the status of a deferred job says why it waits, and until
            when.
    """

    def __init__(self, job: str, status: "Status", timeout_s: float) -> None:
        super().__init__(job, status, timeout_s)
        self.job = job
        self.status = status
        self.timeout_s = timeout_s

    def __str__(self) -> str:
        return f"{self.job} has not ended within {self.timeout_s:g} s: it is {self.status}"


class Unavailable(KeywheelError, ConnectionError):  # noqa: N818
    """Redis cannot be reached, or rejects the command.

    If this error comes while a job is enqueued, it is not known whether the job arrived. Enqueue it
    again with the same `job_id`: an email is then sent once in either case.
    """


class UnreadableRecord(KeywheelError, ValueError):  # noqa: N818
    """A job's record in Redis cannot be read: another program, or another serializer, wrote it.

    The job may still run. It replaces the record when it ends.
    """
