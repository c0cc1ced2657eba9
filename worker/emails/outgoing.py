"""Makes an outgoing email, one email in one run of its job, from the task's arguments."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from config.api_key import ApiKey
from worker.arguments.email import EmailArguments
from worker.errors import InvalidArguments
from worker.keypool import LeaseRequest
from worker.providers import is_idempotency_key


@dataclass(slots=True, eq=False)
class OutgoingEmail:
    """An email that is to be sent once.

    Attributes:
        idempotency_key: The email's identity: every job with this key sends the same email.
        content_hash: A hash of the email's content, as the job gave it.
        payload: Makes the body for a key, because the from address may depend on the key.
        recipients: The number of addresses that it goes to.
        batchable: It may go out together with other emails.
        known: A job may have sent it before, so the idempotency store is asked first.
        unsendable: Why it cannot be sent as a new email, or empty. The store is still asked for an
            earlier result.
        late: It may have been accepted so long ago that the idempotency store has forgotten it.
        job: The id of its job.
        tenant: The tenant of its job; empty if the job has none.
        calls: The number of calls made with it in this run.
        waited_ms: Time spent waiting in this run, in milliseconds.
        until_s: When the run must have its lease, on the monotonic clock. None: no limit.

    Raises:
        InvalidArguments: The idempotency key is not allowed in a header. If that were found later,
            the other emails of a batch would fail as well.
    """

    idempotency_key: str
    content_hash: str
    payload: Callable[[ApiKey], dict[str, Any]] = field(repr=False)
    recipients: int = 1
    batchable: bool = True
    known: bool = False
    unsendable: str = ""
    late: bool = False
    job: str = ""
    tenant: str = ""
    calls: int = 0
    waited_ms: int = 0
    until_s: float | None = None

    def left_s(self) -> float | None:
        """Return how much longer the email may wait, in seconds. None: no limit."""
        return None if self.until_s is None else max(0.0, self.until_s - time.monotonic())

    def __post_init__(self) -> None:
        if not is_idempotency_key(self.idempotency_key):
            raise InvalidArguments(
                "idempotency_key: is required, because the job's id is not 1 to 256 visible ASCII "
                "characters"
            )


_NO_SENDER = (
    "from: is required, because the settings name no from address (RESEND_FROM) for any key"
)


def order(
    arguments: EmailArguments,
    keys: Sequence[ApiKey],
    *,
    idempotency_key: str,
    job: str,
    known: bool,
    late: bool = False,
) -> tuple[LeaseRequest, OutgoingEmail]:
    """Make the lease request and the email that the sender needs.

    If the email has no from address, only keys with one can send it. If no key has one either, an
    email with a template may go with any key, because the template may have a from address.

    Args:
        arguments: The validated email.
        keys: The keys of the service.
        idempotency_key: The idempotency key if the email brings none.
        job: The id of the email's job; empty if it has none.
        known: A job may have sent the email before.
        late: The email may have been accepted so long ago that the store has forgotten it.

    Returns:
        The request for the lease of a call, and the email.
    """
    unable = frozenset(key.id for key in keys if not arguments.can_go_with(key))
    none_able = bool(keys) and len(unable) == len(keys)
    by_template = none_able and arguments.template is not None
    if by_template:
        unable = frozenset()
    email = OutgoingEmail(
        arguments.idempotency_key or idempotency_key,
        arguments.content_hash(),
        arguments.payload_of_template if by_template else arguments.payload_for,
        recipients=arguments.recipients,
        batchable=arguments.batchable,
        known=known,
        unsendable=_NO_SENDER if none_able and not by_template else "",
        job=job,
        late=late,
    )
    return (
        LeaseRequest(resource=arguments.from_domain, emails=arguments.recipients, exclude=unable),
        email,
    )
