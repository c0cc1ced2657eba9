"""Resend's refusals: statuses, names and bodies, and the faults that can be injected by name."""

from dataclasses import dataclass

from sandbox.answer import Answer, encode, error_page


@dataclass(frozen=True, slots=True)
class Refusal:
    """One kind of refusal.

    Attributes:
        status: The HTTP status.
        name: The error's name in the body.
        message: The message.
        dead: Whether the key will not work again.
    """

    status: int
    name: str
    message: str
    dead: bool = False


_BAD_KEY = "API key is invalid"

REFUSALS: dict[str, Refusal] = {
    "missing_api_key": Refusal(401, "missing_api_key", "Missing API Key"),
    "invalid_api_key_400": Refusal(400, "validation_error", _BAD_KEY, dead=True),
    "invalid_api_key_401": Refusal(401, "validation_error", _BAD_KEY, dead=True),
    "invalid_api_key": Refusal(403, "invalid_api_key", _BAD_KEY, dead=True),
    "suspended_api_key": Refusal(403, "suspended_api_key", "This API key is suspended.", dead=True),
    "restricted_api_key": Refusal(
        401, "restricted_api_key", "This API key is restricted to only send emails"
    ),
    "key_restricted": Refusal(
        403, "restricted_api_key", "This API key may not send from this domain."
    ),
    "example_recipient": Refusal(
        422,
        "validation_error",
        "Invalid `to` field. Please use our testing email address instead of domains like "
        "`example.com`.",
    ),
    "something_new": Refusal(422, "brand_new_name", "Something that no client has heard of."),
    "misdirected": Refusal(421, "application_error", "Misdirected Request"),
    "domain_not_verified": Refusal(
        403, "validation_error", "The domain is not verified. Please, add and verify your domain"
    ),
    "test_address": Refusal(
        403, "validation_error", "You can only send testing emails to your own email address."
    ),
    "validation_error": Refusal(
        400, "validation_error", "We found an error with one or more fields in the request."
    ),
    "invalid_idempotency_key": Refusal(
        400, "invalid_idempotency_key", "The idempotency key must be between 1 and 256 characters."
    ),
    "not_found": Refusal(404, "not_found", "The requested endpoint does not exist."),
    "method_not_allowed": Refusal(
        405, "method_not_allowed", "Method is not allowed for the requested path."
    ),
    "concurrent_idempotent_requests": Refusal(
        409,
        "concurrent_idempotent_requests",
        "Another request with the same idempotency key is currently in progress.",
    ),
    "invalid_idempotent_request": Refusal(
        409,
        "invalid_idempotent_request",
        "This idempotency key has been used on a request with another payload.",
    ),
    "resource_locked": Refusal(
        409, "resource_locked", "The resource is locked by another request."
    ),
    "payload_too_large": Refusal(413, "payload_too_large", "The request body is too large."),
    "missing_required_field": Refusal(422, "missing_required_field", "Missing `to` field."),
    "invalid_attachment": Refusal(
        422, "invalid_attachment", "Attachment must have either a `content` or `path`."
    ),
    "invalid_parameter": Refusal(422, "invalid_parameter", "The parameter must be a valid UUID."),
    "rate_limit_exceeded": Refusal(429, "rate_limit_exceeded", "Too many requests."),
    "rate_limit_silent": Refusal(429, "rate_limit_exceeded", "Too many requests."),
    "daily_quota_exceeded": Refusal(
        429, "daily_quota_exceeded", "You have reached your daily email sending quota."
    ),
    "monthly_quota_exceeded": Refusal(
        429, "monthly_quota_exceeded", "You have reached your monthly email sending quota."
    ),
    "security_error": Refusal(
        451, "security_error", "We may have found a security issue with the request."
    ),
    "application_error": Refusal(500, "application_error", "An unexpected error occurred."),
    "internal_server_error": Refusal(500, "internal_server_error", "An unexpected error occurred."),
    "bad_gateway": Refusal(502, "application_error", "An unexpected error occurred."),
    "service_unavailable": Refusal(
        503, "service_unavailable", "The service is temporarily unavailable."
    ),
    "gateway_timeout": Refusal(504, "application_error", "An unexpected error occurred."),
}
"""Refusals by kind; the kinds serve as fault kinds too."""

BY_STATUS = {
    400: "validation_error",
    401: "invalid_api_key_401",
    403: "invalid_api_key",
    404: "not_found",
    405: "method_not_allowed",
    409: "resource_locked",
    413: "payload_too_large",
    421: "misdirected",
    422: "missing_required_field",
    429: "rate_limit_exceeded",
    451: "security_error",
    500: "application_error",
    502: "bad_gateway",
    503: "service_unavailable",
    504: "gateway_timeout",
}
"""The kind of a fault that names a status only."""

_KEY_FORMS = {400: "invalid_api_key_400", 401: "invalid_api_key_401", 403: "invalid_api_key"}


def key_refusal(form: int) -> str:
    """Return the refusal of a dead key; statuses 400, 401 and 403 have been observed."""
    return _KEY_FORMS.get(form, "invalid_api_key_401")


def error_body(status: int, name: str, message: str) -> bytes:
    """Resend's error body."""
    return encode({"statusCode": status, "message": message, "name": name})


def page(status: int) -> Answer:
    """Return a gateway's HTML page instead of Resend's JSON."""
    return Answer(status, error_page(status), content_type="text/html")
