"""The tenant of a job: on whose behalf it is, as its message says."""

from collections.abc import Mapping
from typing import Any, Final

HEADER: Final = "tenant"
"""The header of a message that names the tenant."""

_LONGEST: Final = 200


def tenant_of(headers: Any) -> str:
    """Return the name that the headers of a message give; empty where they give none.

    A name is cut after 200 characters, and one that cannot be shown counts as none.
    """
    name = headers.get(HEADER) if isinstance(headers, Mapping) else None
    if not isinstance(name, str) or not name.isprintable():
        return ""
    return name.strip()[:_LONGEST]
