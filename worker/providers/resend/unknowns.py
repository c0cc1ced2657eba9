"""Finds the parts of Resend's answers that `verdicts` does not know."""

from collections.abc import Iterator

from worker.foreign_json import as_object
from worker.providers.response import Answer
from worker.providers.unknowns import Kind, Shapes, Unknown, unknown_headers

_NAMES = {
    "application_error",
    "concurrent_idempotent_requests",
    "daily_quota_exceeded",
    "email_above_quota",
    "internal_server_error",
    "invalid_access",
    "invalid_api_key",
    "invalid_attachment",
    "invalid_from_address",
    "invalid_idempotency_key",
    "invalid_idempotent_request",
    "invalid_parameter",
    "invalid_permission",
    "invalid_region",
    "method_not_allowed",
    "missing_api_key",
    "missing_required_field",
    "missing_required_parameter",
    "monthly_quota_exceeded",
    "not_found",
    "payload_too_large",
    "rate_limit_exceeded",
    "resource_locked",
    "restricted",
    "restricted_api_key",
    "security_error",
    "service_unavailable",
    "suspended_api_key",
    "validation_error",
}
_STATUSES = {
    *(400, 401, 403, 404, 405, 408, 409, 413, 421, 422, 425, 429, 451, 499),
    *(500, 502, 503, 504),
    *range(520, 528),  # of the gateway in front of Resend
}
_HEADERS = {"ratelimit-limit", "ratelimit-remaining", "ratelimit-reset", "ratelimit-policy"}
_HEADERS |= {"x-resend-daily-quota", "x-resend-monthly-quota"}
_HEADER_BEGINNINGS = ("ratelimit-", "x-ratelimit-", "x-resend-")
_FIELDS = {"id", "object", "data", "errors"}


def unknown_in(answer: Answer, *, status: int, shapes: Shapes) -> Iterator[Unknown]:
    """Find the unknown parts of an answer.

    Args:
        answer: Resend's answer.
        status: The HTTP status, or the status that the body of a 200 states.
        shapes: Makes the shapes of the unknown parts.
    """
    yield from unknown_headers(
        answer, "resend", beginnings=_HEADER_BEGINNINGS, known=_HEADERS, shapes=shapes
    )
    if status < 400:  # noqa: PLR2004 - not an error
        fields = as_object(answer.body).keys() - _FIELDS if answer.ok else ()
        for name in fields:
            yield Unknown("resend", Kind.MESSAGE_FIELD, shapes.of_name(name))
        return
    if answer.code and answer.code not in _NAMES:
        yield Unknown("resend", Kind.ERROR_CODE, f"{status} {shapes.of_name(answer.code)}")
    if status not in _STATUSES:
        yield Unknown("resend", Kind.STATUS, str(status))
