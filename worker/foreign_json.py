"""Reads JSON that others wrote, in which any value may be missing or of another type."""

import json
from typing import Any


def read_json(text: Any) -> Any:
    """Read a text; None where it is not JSON, or nested too deeply."""
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None


def member(value: Any, name: str) -> Any:
    """Return the member of an object; None where it has none, or where this is not an object."""
    return value.get(name) if isinstance(value, dict) else None


def as_object(value: Any) -> dict[str, Any]:
    """Return an object as it is; an empty one in place of anything else."""
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """Return a list as it is; an empty one in place of anything else."""
    return value if isinstance(value, list) else []


def as_text(value: Any) -> str:
    """Return a text as it is; an empty one in place of anything else."""
    return value if isinstance(value, str) else ""


def as_int(value: Any) -> int:
    """Return a whole number as it is; 0 in place of anything else."""
    return value if type(value) is int else 0
