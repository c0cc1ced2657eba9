"""The tree of all errors that a caller or an operator can meet.

    KeywheelError
    ├── ConfigurationError    the worker cannot start
    ├── JobError              the job ends here; its message is the reason that the caller reads
    │   ├── InvalidArguments  an argument is unknown, missing or malformed
    │   ├── RequestRejected   the provider refused the request for good
    │   ├── RequestTooLarge   no key may ever carry a request of this size
    │   ├── RetriesExhausted  the provider failed more often than a job may retry
    │   ├── DeadlineExceeded  no key became free in time
    │   ├── OutcomeUnknown    an email may have been accepted; it must not be sent again blindly
    │   └── Poisoned          too many workers died while they held the job
    └── Rescheduled           no failure yet: the job runs again later
        ├── Deferred          no key can serve now; the job comes back later
        └── TransientError    the provider failed; the job may try again

Job errors travel as JSON through the result store, so each is built from one plain sentence. The
sentence never contains a key, a prompt or a mail body.
"""

from typing import Self


class KeywheelError(Exception):
    """Base of every error in this project."""


class ConfigurationError(KeywheelError):
    """The settings do not allow a start; the message says what to change."""


class JobError(KeywheelError):
    """The job ended without a result. The message is one sentence for the caller."""


class InvalidArguments(JobError):  # noqa: N818 - reads as a sentence in a result: "InvalidArguments: to: …"
    """An argument of the task is unknown, missing or malformed; the message names the field.

    Attributes:
        another_email: The idempotency key was used for an email with different content.
    """

    another_email = False


class RequestRejected(JobError):  # noqa: N818
    """The provider refuses this request whichever key carries it."""


class RequestTooLarge(RequestRejected):
    """The request exceeds the largest limit that any key has."""


class RetriesExhausted(JobError):  # noqa: N818
    """The provider failed on the first try and on every retry that the job had."""


class DeadlineExceeded(JobError):  # noqa: N818
    """The job's deadline passed before a key could serve it."""


class JobEnded(KeywheelError):  # noqa: N818
    """Code that still runs after its job has ended tried to make a call."""

    def __init__(self) -> None:
        super().__init__(
            "its job has ended (a time limit, a revoke, or a child task that outlived the task), "
            "so this call was not made"
        )


class OutcomeUnknown(JobError):  # noqa: N818
    """The provider may have carried the request out, and there is no safe way to find out."""


class Poisoned(JobError):  # noqa: N818
    """Too many workers died while they held the job, so no worker runs it again."""

    @classmethod
    def after(cls, deaths: int, *, in_doubt: bool = False) -> Self:
        """Make the error of a job that is not run again because workers died while they held it.

        Args:
            deaths: How many workers died.
            in_doubt: Whether the job is an email that may have been sent.
        """
        sent = "; the email may have been sent" if in_doubt else ""
        return cls(
            f"{deaths} workers died while they held this job, so it is not run again "
            f"automatically{sent}"
        )


def error_of(reason: str) -> JobError:
    """Make the error that a dead letter names.

    Args:
        reason: The name and the sentence of the error, as in `InvalidArguments: to: is required`.
    """
    name, _, sentence = reason.partition(": ")
    found = globals().get(name)
    if isinstance(found, type) and issubclass(found, JobError):
        return found(sentence)
    words = name.split(" ", 1)
    named: type[JobError] = type(words[0], (JobError,), {"__module__": __name__})
    return named(sentence or reason)


class Rescheduled(KeywheelError):  # noqa: N818
    """The run ended without an answer, and the job runs again later.

    Attributes:
        attempts: How many calls to the provider this run made.
        waited_ms: How long this run waited for keys, in milliseconds.
        in_doubt: Whether an attempt, of this run or an earlier one, may have been carried out.
    """

    attempts = 0
    waited_ms = 0
    in_doubt = False


class Deferred(Rescheduled):
    """No key can serve this job now.

    Args:
        countdown_ms: When the job runs again, in milliseconds from now.
        reason: Why no key can serve, in a few words (`cooling`, `disabled`, …).
        code: The reason for programs. Default: the reason if it is a code, else `waiting`.
        ends_in_ms: When the wait is expected to end, in milliseconds from now; None: not known.

    Attributes:
        for_good: Whether every key is out until a person acts, however long the job waits.
    """

    for_good = False

    def __init__(
        self, countdown_ms: int, reason: str, code: str = "", ends_in_ms: int | None = None
    ) -> None:
        super().__init__(f"no key is free: {reason}; next try in {countdown_ms / 1000:.1f} s")
        self.countdown_ms = countdown_ms
        self.reason = reason
        self.code = code or (reason if reason.isidentifier() else "waiting")
        self.ends_in_ms = ends_in_ms

    def __reduce__(self) -> tuple[type["Deferred"], tuple[int, str, str, int | None]]:
        """Pickle the whole error: Celery shows only the base class of errors it cannot pickle."""
        return type(self), (self.countdown_ms, self.reason, self.code, self.ends_in_ms)


class TransientError(Rescheduled):
    """The provider failed in a way that may pass.

    It costs the job one retry, unless the provider fails for all jobs.

    Args:
        reason: What happened, in one sentence.
        backoff_ms: The shortest wait before the next try, in milliseconds; None if the provider
            named none.

    Attributes:
        code: The verdict's code; empty if no answer was judged.
        most_repeats: How often the job may try again after errors of this code; None: as often as
            after any other error.
        own: Whether only this job fails, while others succeed. If False (an outage), the error
            costs no retry.
    """

    code = ""
    own = True
    most_repeats: int | None = None

    def __init__(self, reason: str, backoff_ms: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.backoff_ms = backoff_ms
