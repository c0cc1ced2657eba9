"""Reads the body of an admin request, and rejects everything that it does not know."""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from worker.dashboard.errors import ApiError, BadRequest, check_service

MAX_BODY_BYTES: Final = 65_536
"""More than a valid body needs: 100 ids of 200 characters, each of which JSON may write as two."""

LONGEST_S = 30 * 86_400
"""The longest time for which a key can be disabled, in seconds."""
MAX_IDS: Final = 100
"""How many ids one request may name."""

_MAX_CHARACTERS = 200
_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class RequestBody:
    """The fields of an admin request.

    Attributes:
        service: The service; None for all.
        key: The key's id; None for all keys of the service.
        reason: The reason in the person's words; may be empty.
        include_disabled: True to also bring back all keys that a person disabled; a list of ids to
            bring back only these of them.
        for_s: For how long a key is disabled, in seconds; None for no end.
        note: A note on a key; may be empty.
    """

    service: str | None = None
    key: str | None = None
    reason: str = ""
    include_disabled: bool | Collection[str] = False
    for_s: int | None = None
    note: str = ""

    def one_service(self) -> str:
        """Return the service of a request that must name one.

        Raises:
            ApiError: 400 if the request names no service.
        """
        if self.service is None:
            raise BadRequest("service is needed.")
        return self.service

    def one_key(self) -> tuple[str, str]:
        """Return the service and the key's id of a request that must name one key.

        Raises:
            ApiError: 400 if the request names no service or no key.
        """
        if self.service is None or self.key is None:
            raise BadRequest("service and key are needed.")
        return self.service, self.key


def check_headers(headers: Mapping[str, str], query: str) -> None:
    """Reject a request whose body cannot be read, before the body is read.

    Raises:
        ApiError: 400 for a query string, 413 if Content-Length is too large, 415 if the body is
            compressed, or is not JSON.
    """
    if query:
        # If the query string were ignored, a reset with `?service=groq` would reset all services.
        raise BadRequest("Put service and key into the JSON body, not into the address.")
    announced = headers.get("Content-Length", "0")
    if announced.isdecimal() and int(announced) > MAX_BODY_BYTES:
        raise too_large()
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ApiError(415, "wrong_content_type", "Send the body as plain JSON, not compressed.")
    has_body = announced != "0" or "Transfer-Encoding" in headers
    if not _is_json(headers.get("Content-Type") or ("" if has_body else _JSON)):
        raise ApiError(415, "wrong_content_type", "Send the body as application/json.")


def _is_json(content_type: str) -> bool:
    kind, _, parameter = (part.strip().lower() for part in content_type.partition(";"))
    return kind == _JSON and parameter.replace('"', "") in {"", "charset=utf-8"}


def too_large() -> ApiError:
    """Make the error for a body larger than `MAX_BODY_BYTES`."""
    return ApiError(
        413,
        "too_large",
        f"The body must not exceed {MAX_BODY_BYTES} bytes: name fewer ids at once.",
    )


Form = tuple[Callable[[Any], bool], str]
"""A function that checks a value, and the words that complete the sentence "NAME must be …"."""


def plain_text(least: int) -> Form:
    """Make the form of a text of one line."""

    def fits(value: Any) -> bool:
        is_plain = isinstance(value, str) and value.isprintable() and len(value) <= _MAX_CHARACTERS
        return is_plain and (not least or bool(value.strip()))

    return fits, f"plain text of {least} to {_MAX_CHARACTERS} characters"


def are_ids(value: Any) -> bool:
    """Return whether the value is a list of at most `MAX_IDS` ids."""
    is_list = isinstance(value, list) and len(value) <= MAX_IDS
    return is_list and all(isinstance(item, str) for item in value)


TEXT: Final = plain_text(1)
FLAG: Final[Form] = (lambda value: isinstance(value, bool), "true or false")
_FORMS: Final[Mapping[str, Form]] = {
    **dict.fromkeys(("service", "key", "reason"), TEXT),
    "note": plain_text(0),
    "include_disabled": (
        lambda value: isinstance(value, bool) or are_ids(value),
        f"true, false or a list of up to {MAX_IDS} ids",
    ),
    "for_s": (
        lambda value: type(value) is int and 1 <= value <= LONGEST_S,
        f"a whole number from 1 to {LONGEST_S} seconds",
    ),
}


def check_forms(values: Mapping[str, Any], forms: Mapping[str, Form]) -> None:
    """Reject a request in which a field does not have its form.

    Raises:
        ApiError: 400; the message names the field.
    """
    for name, (fits, words) in forms.items():
        if name in values and not fits(values[name]):
            raise BadRequest(f"{name} must be {words}.")


def read_body(body: bytes, *, fields: Collection[str]) -> RequestBody:
    """Read a body; an empty one concerns all keys.

    Args:
        body: The raw body.
        fields: The fields that the body may have.

    Raises:
        ApiError: 400 if the body is not a JSON object of these fields with valid values, 404 for
            an unknown service.
    """
    values = read_object(body) if body.strip() else {}
    check_fields(values, fields)
    check_forms(values, _FORMS)
    request = RequestBody(**values)
    if request.key and not request.service:
        raise BadRequest("A request that names a key must also name its service.")
    if request.service is not None:
        check_service(request.service)
    return request


def check_fields(values: Collection[str], known: Collection[str]) -> None:
    """Reject a request with an unknown field.

    Raises:
        ApiError: 400; the message names the field.
    """
    if unknown := sorted(set(values).difference(known)):
        raise ApiError(
            400,
            "unknown_field",
            f"Unknown field {unknown[0][:40]!r}; {_known(known)}.",
        )


def _known(fields: Collection[str]) -> str:
    return f"the fields are: {', '.join(fields)}" if fields else "this address takes no fields"


def read_object(body: bytes) -> dict[str, Any]:
    """Read a body that must be a JSON object.

    Raises:
        ApiError: 400 if it is not a JSON object.
    """
    try:
        values = json.loads(body.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError):
        raise ApiError(
            400, "bad_json", "The body is not valid JSON, or names a field twice."
        ) from None
    if not isinstance(values, dict):
        raise ApiError(400, "bad_json", "The body must be a JSON object.")
    return values


def whole_number(text: str, name: str, *, most: int) -> int:
    """Read a number in the address.

    Raises:
        ApiError: 400 if it is not a whole number from 1 to `most`.
    """
    is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(most))
    if is_number and 1 <= int(text) <= most:
        return int(text)
    raise BadRequest(f"{name} must be a whole number from 1 to {most}.")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a field is named twice")
    return values
