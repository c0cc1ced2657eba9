"""Validates emails as Resend does."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

MAX_RECIPIENTS = 50
MAX_IN_BATCH = 100
_MAX_ATTACHED = 40 * 1024 * 1024
_ADDRESS = re.compile(
    r"^(?:(?:[^<>]*|\s*\"[^\"]*\"\s*)<\s*([^<>@\s]+@[^<>@\s]+\.[^<>@\s]+)\s*>"
    r"|([^<>@\s]+@[^<>@\s]+\.[^<>@\s]+))$"
)
_LIKE_A_DATE = re.compile(r"\d{4}-\d")
_TAG = re.compile(r"^[A-Za-z0-9_-]{1,256}$")
_FORM = (
    "The email address needs to follow the "
    "`email@example.com` or `Name <email@example.com>` format."
)


@dataclass(frozen=True, slots=True)
class Invalid:
    """Why an email is refused."""

    name: str
    message: str
    status: int = 422


def addresses(value: Any) -> list[Any]:
    """Return the addresses of a field that holds one address or a list."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def everybody(email: dict[str, Any]) -> list[Any]:
    """All recipients of an email."""
    return [address for name in ("to", "cc", "bcc") for address in addresses(email.get(name))]


def recipients(email: dict[str, Any]) -> int:
    """Return how many recipients an email has; each counts against the quotas."""
    return len(everybody(email))


def domain_of(address: str) -> str:
    """The domain of an address that passed validation."""
    found = _ADDRESS.match(address.strip())
    plain = (found.group(1) or found.group(2)) if found else address
    return plain.rpartition("@")[2].lower()


def validate(email: Any, *, in_batch: bool = False) -> Invalid | None:
    """Return the first error of an email, in the order in which Resend checks."""
    if not isinstance(email, dict):
        return Invalid("validation_error", "The email must be an object.")
    return (
        _validate_presence(email)
        or _validate_addresses(email)
        or _validate_rest(email)
        or _validate_attachments(email, in_batch=in_batch)
        or _validate_tags(email)
    )


def _validate_presence(email: dict[str, Any]) -> Invalid | None:
    template = email.get("template")
    has_content = any(email.get(name) for name in ("html", "text", "react"))
    # A template has a subject of its own, and may have a from address.
    for name in ("to",) if template else ("from", "to", "subject"):
        if not email.get(name):
            return Invalid("missing_required_field", f"Missing `{name}` field.")
    if not template and not has_content:
        return Invalid("missing_required_field", "Missing `html` or `text` field.")
    if template and (not isinstance(template, dict) or not template.get("id")):
        return Invalid("missing_required_field", "Missing `template.id` field.")
    if template and has_content:
        return Invalid(
            "validation_error", "A template cannot be combined with `html`, `text` or `react`."
        )
    return None


def _validate_addresses(email: dict[str, Any]) -> Invalid | None:
    for name in ("from", "to", "cc", "bcc", "reply_to"):
        listed = addresses(email.get(name))
        if name == "from" and len(listed) != 1 and not (email.get("template") and not listed):
            return Invalid("validation_error", f"Invalid `from` field. {_FORM}")
        if name in {"to", "cc", "bcc"} and len(listed) > MAX_RECIPIENTS:
            return Invalid(
                "validation_error", f"The `{name}` field must have at most {MAX_RECIPIENTS} items."
            )
        if not all(
            isinstance(address, str) and _ADDRESS.match(address.strip()) for address in listed
        ):
            return Invalid("validation_error", f"Invalid `{name}` field. {_FORM}")
    return None


def _validate_rest(email: dict[str, Any]) -> Invalid | None:
    if not isinstance(email.get("subject", ""), str):
        return Invalid("validation_error", "The `subject` field must be a string.")
    if not _is_moment(email.get("scheduled_at")):
        return Invalid(
            "validation_error",
            "The `scheduled_at` field must be an ISO 8601 date or natural language.",
        )
    return None


def _validate_attachments(email: dict[str, Any], *, in_batch: bool) -> Invalid | None:
    attached = email.get("attachments")
    if attached:
        if in_batch:
            return Invalid(
                "validation_error", "The `attachments` field is not supported in a batch."
            )
        if not isinstance(attached, list) or not all(
            isinstance(part, dict) and (part.get("content") or part.get("path"))
            for part in attached
        ):
            return Invalid(
                "invalid_attachment", "Attachment must have either a `content` or `path`."
            )
        if sum(len(part.get("content") or "") for part in attached) > _MAX_ATTACHED:
            return Invalid("invalid_attachment", "The attachments exceed 40 MB together.")
    return None


def _validate_tags(email: dict[str, Any]) -> Invalid | None:
    for tag in email.get("tags") or ():
        if not isinstance(tag, dict) or not all(
            _TAG.match(str(tag.get(part, "x"))) for part in ("name", "value")
        ):
            return Invalid(
                "validation_error",
                "Tags should only contain ASCII letters, numbers, underscores, or dashes.",
            )
    return None


def _is_moment(text: Any) -> bool:
    """Whether a value is a time for sending an email; natural language is always accepted."""
    if text is None:
        return True
    if not isinstance(text, str) or not text.strip():
        return False
    if not _LIKE_A_DATE.match(text):
        return True
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
