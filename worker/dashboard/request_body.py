"""What an admin request asks for: its body, read strictly."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from worker.dashboard.errors import Refusal

LARGEST_BODY_BYTES = 4096
"""Far above what any body needs."""

_MOST_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class Asked:
    """Which keys, and why.

    Attributes:
        service: The service; None for all.
        key: The key's id; None for all of the service.
        reason: Why, in the person's words; empty where not said.
        include_disabled: Bring back keys that a person disabled, too.
    """

    service: str | None = None
    key: str | None = None
    reason: str = ""
    include_disabled: bool = False


def check_headers(headers: Mapping[str, str], query: str) -> None:
    """Refuse what could not be read, before the body is.

    Raises:
        Refusal: 400 for a query string, 413 for a body announced as too large, 415 for another kind
            of body.
    """
    if query:
        # Left unread, `?service=groq` would reset everything.
        raise Refusal(
            400, "bad_request", "Put service and key into the JSON body, not into the address."
        )
    announced = headers.get("Content-Length", "0")
    if announced.isdecimal() and int(announced) > LARGEST_BODY_BYTES:
        raise too_large()
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refusal(415, "wrong_content_type", "Send the body as plain JSON, not compressed.")
    content_type = headers.get("Content-Type", "")
    kind, _, parameter = (part.strip().lower() for part in content_type.partition(";"))
    has_body = announced != "0" or "Transfer-Encoding" in headers
    if not content_type and not has_body:
        return
    if kind != "application/json" or parameter.replace('"', "") not in {"", "charset=utf-8"}:
        raise Refusal(415, "wrong_content_type", "Send the body as application/json.")


def too_large() -> Refusal:
    """The refusal of a body beyond `LARGEST_BODY_BYTES`."""
    return Refusal(413, "too_large", f"The body must not exceed {LARGEST_BODY_BYTES} bytes.")


def read_body(body: bytes, *, services: Collection[str], fields: Collection[str]) -> Asked:
    """Read a body; an empty one asks for everything.

    Args:
        body: The raw body.
        services: The services there are.
        fields: The names that the body may hold.

    Raises:
        Refusal: 400 where it is no JSON object of these fields with text in them, 404 for an
            unknown service.
    """
    found = read_object(body) if body.strip() else {}
    if unknown := sorted(set(found).difference(fields)):
        raise Refusal(
            400,
            "unknown_field",
            f"Unknown field {unknown[0][:40]!r}; known are: {', '.join(fields)}.",
        )
    if not isinstance(found.get("include_disabled", False), bool):
        raise Refusal(400, "bad_request", "include_disabled must be true or false.")
    for name, value in found.items():
        if name == "include_disabled":
            continue
        if (
            not isinstance(value, str)
            or not value.strip()
            or len(value) > _MOST_CHARACTERS
            or not value.isprintable()
        ):
            raise Refusal(
                400,
                "bad_request",
                f"{name} must be plain text of 1 to {_MOST_CHARACTERS} characters.",
            )
    asked = Asked(**found)
    if asked.key and not asked.service:
        raise Refusal(400, "bad_request", "key needs service beside it.")
    if asked.service is not None and asked.service not in services:
        raise Refusal(
            404, "unknown_service", f"There is no such service; known are: {', '.join(services)}."
        )
    return asked


def read_object(body: bytes) -> dict[str, Any]:
    """Read a body that must be a JSON object.

    Raises:
        Refusal: 400 where it is none.
    """
    try:
        found = json.loads(body.decode("utf-8"), object_pairs_hook=_no_name_twice)
    except (ValueError, RecursionError):
        raise Refusal(
            400, "bad_json", "The body is not valid JSON, or names a field twice."
        ) from None
    if not isinstance(found, dict):
        raise Refusal(400, "bad_json", "The body must be a JSON object.")
    return found


def whole_number(text: str, name: str, *, most: int) -> int:
    """Read a number of the address.

    Raises:
        Refusal: 400 where it is no whole number from 1 to `most`.
    """
    if (
        text.isascii()
        and text.isdecimal()
        and len(text) <= len(str(most))
        and 1 <= int(text) <= most
    ):
        return int(text)
    raise Refusal(400, "bad_request", f"{name} must be a whole number from 1 to {most}.")


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found
