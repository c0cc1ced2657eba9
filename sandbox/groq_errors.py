"""Groq's refusals: statuses, codes and bodies, and the faults that can be injected by name."""

from dataclasses import dataclass
from typing import Any

from sandbox.answer import BLOCK_PAGE, HTML, JSON, Answer, encode, error_page

_BILLING = (
    "Need more tokens? Upgrade to Dev Tier today at https://console.groq.com/settings/billing"
)
_INVALID = "invalid_request_error"
_INTERNAL = "internal_server_error"


@dataclass(frozen=True, slots=True)
class Refusal:
    """One kind of refusal.

    Attributes:
        status: The HTTP status.
        message: The text; `{model}` is filled in. Empty means a body without an error object.
        type: The error's type.
        code: The error's code; None if Groq sends none.
        dead: The key will not work again.
    """

    status: int
    message: str
    type: str = _INVALID
    code: str | None = None
    dead: bool = False


REFUSALS: dict[str, Refusal] = {
    "invalid_api_key": Refusal(401, "Invalid API Key", code="invalid_api_key", dead=True),
    "organization_restricted": Refusal(
        400,
        "Organization has been restricted. Please reach out to support if you believe this was in "
        "error.",
        code="organization_restricted",
        dead=True,
    ),
    "blocked_api_access": Refusal(
        400,
        "API access is blocked because the spend limit of this organization was reached.",
        code="blocked_api_access",
    ),
    "spend_limit_reached": Refusal(
        400, "The spend limit of this organization was reached.", code="spend_limit_reached"
    ),
    "model_permission_blocked_project": Refusal(
        403,
        "The model `{model}` is blocked at the project level.",
        type="permissions_error",
        code="model_permission_blocked_project",
    ),
    "model_permission_blocked_org": Refusal(
        403,
        "The model `{model}` is blocked at the organization level.",
        type="permissions_error",
        code="model_permission_blocked_org",
    ),
    "model_not_found": Refusal(
        404,
        "The model `{model}` does not exist or you do not have access to it.",
        code="model_not_found",
    ),
    "model_decommissioned": Refusal(
        400,
        "The model `{model}` has been decommissioned and is no longer supported.",
        code="model_decommissioned",
    ),
    "model_terms_required": Refusal(
        400,
        "The model `{model}` requires terms acceptance. Please have the org admin accept the terms "
        "in the console.",
        code="model_terms_required",
    ),
    "something_new": Refusal(400, "Something that no client has heard of.", code="brand_new_code"),
    "context_length_exceeded": Refusal(
        400,
        "Please reduce the length of the messages or completion.",
        code="context_length_exceeded",
    ),
    "unprocessable": Refusal(422, "The request could not be processed."),
    "json_validate_failed": Refusal(
        400, "Failed to validate JSON. Please adjust your prompt.", code="json_validate_failed"
    ),
    "tool_use_failed": Refusal(
        400, "Failed to call a function. Please adjust your prompt.", code="tool_use_failed"
    ),
    "failed_dependency": Refusal(424, "A dependency of this request failed.", type=_INTERNAL),
    "misdirected": Refusal(421, "Misdirected Request", type=_INTERNAL),
    "call_cut": Refusal(499, "Request Cancelled", type=_INTERNAL),
    "rate_limit_silent": Refusal(429, ""),
    "capacity_exceeded": Refusal(
        498,
        "Flex tier capacity exceeded, please try again later.",
        type=_INTERNAL,
        code="capacity_exceeded",
    ),
    "internal_error": Refusal(500, "Internal Server Error", type=_INTERNAL),
    "bad_gateway": Refusal(502, "Bad Gateway", type=_INTERNAL),
    "over_capacity": Refusal(
        503,
        "{model} is currently over capacity. Please try again and back off exponentially.",
        type=_INTERNAL,
    ),
    "gateway_timeout": Refusal(504, "Gateway Timeout", type=_INTERNAL),
    "forbidden": Refusal(403, "Forbidden"),
}
"""Refusals by name; the names serve as fault kinds too."""

BY_STATUS = {
    400: "context_length_exceeded",
    401: "invalid_api_key",
    403: "forbidden",
    404: "model_not_found",
    421: "misdirected",
    422: "unprocessable",
    424: "failed_dependency",
    429: "rate_limit_silent",
    499: "call_cut",
    498: "capacity_exceeded",
    500: "internal_error",
    502: "bad_gateway",
    503: "over_capacity",
    504: "gateway_timeout",
}
"""The kind of a fault that names a status only."""

_ECHO = {"json_validate_failed", "tool_use_failed"}


def error_body(
    message: str, *, type_: str = _INVALID, code: str | None = None, **more: Any
) -> bytes:
    """Groq's error envelope."""
    error: dict[str, Any] = {"message": message, "type": type_}
    if code is not None:
        error["code"] = code
    return encode(
        {"error": error | {name: value for name, value in more.items() if value is not None}}
    )


def refuse(kind: str, model: str, *, status: int = 0, echo: str = "") -> Answer:
    """The answer for a kind of refusal.

    Args:
        kind: A name in `REFUSALS`.
        model: Filled into the message.
        status: Overrides the status (`organization_restricted` is seen as 400 and as 403).
        echo: Text of the user that is returned as `failed_generation`, as Groq does.
    """
    refusal = REFUSALS[kind]
    status = status or refusal.status
    if not refusal.message:
        return Answer(status, b"{}")
    message = refusal.message.replace("{model}", model)
    more = {"failed_generation": echo} if kind in _ECHO else {}
    return Answer(status, error_body(message, type_=refusal.type, code=refusal.code, **more))


def blocked_by_edge() -> Answer:
    """A 403 with an HTML page: the client's address is blocked for all keys."""
    return Answer(403, BLOCK_PAGE, content_type=HTML)


def gateway_page(status: int) -> Answer:
    """A gateway's HTML instead of Groq's JSON."""
    return Answer(status, error_page(status), content_type=HTML)


@dataclass(frozen=True, slots=True)
class Dimension:
    """The names of one limit in headers and messages."""

    words: str
    short: str
    type: str


RPM = Dimension("requests per minute", "RPM", "requests")
RPD = Dimension("requests per day", "RPD", "requests")
TPM = Dimension("tokens per minute", "TPM", "tokens")
TPD = Dimension("tokens per day", "TPD", "tokens")
ITPM = Dimension("input tokens per minute", "ITPM", "tokens")
OTPM = Dimension("output tokens per minute", "OTPM", "tokens")


def rate_limited(
    model: str,
    organisation: str,
    dimension: Dimension,
    *,
    limit: int,
    used: int,
    requested: int,
    wait: str,
    tier: str,
) -> bytes:
    """The body of a 429, with the wording recorded from real traffic."""
    return error_body(
        f"Rate limit reached for model `{model}` in organization `{organisation}` service tier "
        f"`{tier}` on "
        f"{dimension.words} ({dimension.short}): Limit {limit}, Used {used}, Requested "
        f"{requested}. "
        f"Please try again in {wait}. {_BILLING}",
        type_=dimension.type,
        code="rate_limit_exceeded",
    )


def too_large(
    model: str, organisation: str, dimension: Dimension, *, limit: int, requested: int, tier: str
) -> Answer:
    """The 413 for a request that exceeds the limit itself: same code, other wording, no wait.

    For OTPM the status is 400.
    """
    body = error_body(
        f"Request too large for model `{model}` in organization `{organisation}` service tier "
        f"`{tier}` on "
        f"{dimension.words} ({dimension.short}): Limit {limit}, Requested {requested}, "
        f"please reduce your message size and try again. {_BILLING}",
        type_=_INVALID if dimension is OTPM else dimension.type,
        code=None if dimension is OTPM else "rate_limit_exceeded",
    )
    return Answer(400 if dimension is OTPM else 413, body, content_type=JSON)
