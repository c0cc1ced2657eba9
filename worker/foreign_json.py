"""Reads JSON of other programs, in which any value may be missing or of another type."""

import json
from typing import Any


def read_json(text: Any) -> Any:
    """Read a JSON text; None if it is not JSON, or nested too deeply."""
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None


def member(value: Any, name: str) -> Any:
    """Return a member of an object; None if `value` has no such member, or is not an object."""
    return value.get(name) if isinstance(value, dict) else None


def as_object(value: Any) -> dict[str, Any]:
    """Return an object unchanged; an empty object in place of any other value."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """Return a list unchanged; an empty list in place of any other value."""
    return value if isinstance(value, list) else []


def as_text(value: Any) -> str:
    """Return a text unchanged; an empty text in place of any other value."""
    return value if isinstance(value, str) else ""


def as_int(value: Any) -> int:
    """Return a whole number unchanged; 0 in place of any other value."""
    return value if type(value) is int else 0
