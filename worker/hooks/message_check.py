"""Checks that a message follows Celery's protocol closely enough to run, before Celery reads it.

Celery trusts its producers. If a message has no id, Celery reconnects for ever. If the task's name
is a list, Celery's loop raises an error. If a time limit is a text, the job neither begins nor
ends, and the worker cannot stop.
"""

import math
from collections.abc import Callable, Container, Mapping
from typing import Any, Final

_LONGEST_NAME = 1_000
_MOST_RETRIES = 1_000_000
_BODY_PARTS = 3
_UNREADABLE: Final = object()


def problem_with(message: Any, *, known: Container[str]) -> str:
    """Validate a message of a known task.

    Args:
        message: kombu's message.
        known: The names of the tasks.

    Returns:
        Why the message cannot be run: a sentence that begins with "its" and the field. Empty if it
        can be run, or if Celery itself rejects it.
    """
    headers = message.headers
    if not isinstance(headers, dict):
        return "its headers are not an object"
    if "task" in headers:
        return _problem_with_headers(headers, known) or _problem_with_body(_payload(message))
    body = _payload(message)  # of protocol 1, or not a job at all: Celery checks which
    return _problem_with_headers(body, known) if isinstance(body, dict) and "task" in body else ""


def _problem_with_headers(headers: dict[str, Any], known: Container[str]) -> str:
    name = headers["task"]
    if not isinstance(name, str) or not _is_id(headers.get("id")):
        return "its headers task and id must be short texts"
    wrong = next((name for name, fits in _HEADERS.items() if not fits(headers.get(name))), None)
    return f"its header {wrong} is malformed" if wrong and name in known else ""


def _payload(message: Any) -> Any:
    try:
        return message.payload
    except Exception:  # noqa: BLE001 - Celery reads it again, and rejects it
        return _UNREADABLE


def _problem_with_body(body: Any) -> str:
    if body is _UNREADABLE:
        return ""
    if not isinstance(body, list) or len(body) != _BODY_PARTS:
        return "its body is not a list of arguments, keyword arguments and options"
    args, kwargs, embed = body
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        return "its arguments must be a list, its keyword arguments an object"
    if not isinstance(embed, dict | None):
        return "its options must be an object"
    return "" if _can_follow(embed or {}) else "its callbacks, chain or chord are malformed"


def _can_follow(embed: Mapping[str, Any]) -> bool:
    """Whether the jobs that are to run after this one can be read."""
    chord = embed.get("chord")
    lists = (embed.get(name) for name in ("callbacks", "errbacks", "chain"))
    return all(map(_are_signatures, lists)) and (not chord or _is_signature(chord))


def _is_signature(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("task"), str)


def _are_signatures(value: Any) -> bool:
    return not value or (isinstance(value, list) and all(map(_is_signature, value)))


def _is_name(value: Any) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= _LONGEST_NAME)


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME and value.isprintable()


def _is_moment(value: Any) -> bool:
    # Celery itself rejects a text that is not a date, but it would quote a text of any length.
    return value is None or (
        isinstance(value, str) and len(value) <= _LONGEST_NAME and set(value) <= _DIGITS
    )


_DIGITS: Final = frozenset("0123456789-:.+TZW ")


def _is_count(value: Any) -> bool:
    return value is None or (type(value) is int and 0 <= value <= _MOST_RETRIES)


def _are_limits(value: Any) -> bool:
    return value is None or (
        isinstance(value, list)
        and len(value) == 2  # noqa: PLR2004 - hard and soft
        and all(map(_is_limit, value))
    )


def _is_limit(value: Any) -> bool:
    return value is None or (type(value) in {int, float} and 0 < value < math.inf)


_HEADERS: Final[dict[str, Callable[[Any], bool]]] = {
    "eta": _is_moment,
    "expires": _is_moment,
    "retries": _is_count,
    "timelimit": _are_limits,
    "shadow": _is_name,
    "root_id": _is_name,
    "parent_id": _is_name,
    "group": _is_name,
}
