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
        keys: The keys of the service. One without a from address cannot send an email without one,
            unless none has one and the email has a template, which may have its own.
        idempotency_key: The key of an email that brings none.
        job: The id of its job; empty where it has none.
        known: A job may have sent it before.
        late: It may have been accepted so long ago that the idempotency store has forgotten it.

    Returns:
        What a call needs of a key, and the email.
    """
    unable = frozenset(key.id for key in keys if not (arguments.sender or key.sender))
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
    resource = domain_of(arguments.sender) if arguments.sender else ""
    return LeaseRequest(resource=resource, emails=arguments.recipients, exclude=unable), email
