"""Sorts the emails of a request: a team may send all, some (in a permissive batch) or none."""

from dataclasses import dataclass, field
from typing import Any

from sandbox.resend_request import MAX_IN_BATCH, Invalid, domain_of, validate

_TEST_DOMAIN = "resend.dev"


@dataclass(slots=True)
class Intake:
    """The sorted emails of a request.

    Attributes:
        emails: The emails to send.
        errors: The errors that a permissive batch reports for the other emails.
        invalid: Why the whole request is refused, if it is.
    """

    emails: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, Any]] = field(default_factory=list)
    invalid: Invalid | None = None


def take_in(
    request: Any, domains: frozenset[str] | None, *, batch: bool, permissive: bool
) -> Intake:
    """Sort a request.

    Args:
        request: The parsed body.
        domains: The sender domains of the team; None allows every one.
        batch: Whether the request came to `/emails/batch`.
        permissive: Whether some emails of a batch may be sent without the others.
    """
    if not batch:
        invalid = validate(request) or _foreign(request, domains)
        return Intake(invalid=invalid) if invalid else Intake([request])
    if not isinstance(request, list) or not 1 <= len(request) <= MAX_IN_BATCH:
        words = f"A batch must have between 1 and {MAX_IN_BATCH} emails."
        return Intake(invalid=Invalid("validation_error", words))
    intake = Intake()
    for index, email in enumerate(request):
        invalid = validate(email, in_batch=True)
        if invalid is None:
            invalid = _foreign(email, domains)
            if invalid is None:
                intake.emails.append(email)
                continue
        elif permissive:
            intake.errors.append({"index": index, "message": invalid.message})
            continue
        return Intake(invalid=invalid)
    return intake


def _foreign(email: dict[str, Any], domains: frozenset[str] | None) -> Invalid | None:
    """Return the error of an email whose sender domain the team may not use, or None.

    The test domain may send only to the address of the account's owner.
    """
    if not (sender := email.get("from")):  # the template has a sender of the team's own domain
        return None
    domain = domain_of(sender[0] if isinstance(sender, list) else sender)
    if domains is None or domain in domains:
        return None
    if domain == _TEST_DOMAIN:
        return Invalid(
            "validation_error", "You can only send testing emails to your own email address.", 403
        )
    words = (
        f"The {domain} domain is not verified. Please, add and verify your domain on "
        "https://resend.com/domains"
    )
    return Invalid("validation_error", words, 403)
