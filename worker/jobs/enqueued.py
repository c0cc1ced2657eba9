"""When a job was enqueued, as its message says: so it joins a job with its `dedupe_key`."""

from typing import Any, Final

from worker.foreign_json import member

HEADER: Final = "enqueued_ms"
"""The header of a message with the instant, in milliseconds since 1970."""

_MOST: Final = 2**53


def enqueued_ms_of(headers: Any) -> int:
    """Return the instant that the headers of a message give, in milliseconds; 0: they give none."""
    found = member(headers, HEADER)
    return found if type(found) is int and 0 < found <= _MOST else 0
