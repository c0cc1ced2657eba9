"""From the arguments of an email to what the sender takes."""

from collections.abc import Sequence

from config.api_key import ApiKey
from worker.arguments.email import EmailArguments, domain_of
from worker.emails.outgoing import OutgoingEmail
from worker.keypool import LeaseRequest

_NO_SENDER = "from: is required, since the settings name no from address (RESEND_FROM) for any key"


def order(
    arguments: EmailArguments,
    keys: Sequence[ApiKey],
    *,
    idempotency_key: str,
    job: str,
    known: bool,
    late: bool = False,
) -> tuple[LeaseRequest, OutgoingEmail]:
    """Make what the sender takes.

    Args:
        arguments: The validated email.
        keys: The keys of the service; one without a from address cannot send an email without one.
        idempotency_key: The key of an email that brings none.
        job: The id of its job; empty where it has none.
        known: A job may have sent it before.
        late: It may have been accepted so long ago that the idempotency store has forgotten it.

    Returns:
        What a call needs of a key, and the email.
    """
    unable = frozenset(key.id for key in keys if not (arguments.sender or key.sender))
    email = OutgoingEmail(
        arguments.idempotency_key or idempotency_key,
        arguments.content_hash(),
        arguments.payload_for,
        recipients=arguments.recipients,
        batchable=arguments.batchable,
        known=known,
        unsendable=_NO_SENDER if keys and len(unable) == len(keys) else "",
        job=job,
        late=late,
    )
    resource = domain_of(arguments.sender) if arguments.sender else ""
    return LeaseRequest(resource=resource, emails=arguments.recipients, exclude=unable), email
