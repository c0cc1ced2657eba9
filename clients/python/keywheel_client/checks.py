"""Checks the values that a caller gives, so that a wrong value fails at once, with a sentence."""

import math
import re
import time
from typing import Any, Final

LONGEST_S: Final = 1_000_000_000
"""The longest time after which a job expires, in seconds."""
_AFTER: Final = re.compile(r"[0-9]{1,20}(-[0-9]{1,20})?")


def job_of(job: Any) -> str:
    """Check and return a job's id.

    Raises:
        TypeError: The value is not a job's id.
    """
    if not isinstance(job, str) or not job:
        given = "an empty string" if job == "" else f"of type {type(job).__name__}"
        raise TypeError(f"job must be a job's id, as `complete` returns it, but is {given}")
    return job


def text_of(value: Any, name: str) -> str:
    """Check and return an option that is a string.

    Raises:
        TypeError: The value is not a string.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, but is of type {type(value).__name__}")
    return value


def after_of(after: Any) -> str:
    """Check and return the id of a stream's event; an empty id becomes `0`, the beginning.

    Raises:
        ValueError: The value is not such an id.
    """
    if after == "":  # the id of an event that was made from the job's result
        return "0"
    if not isinstance(after, str) or not _AFTER.fullmatch(after):
        raise ValueError("after must be the id of an event of the stream, or 0")
    return after


def expires_s_of(expires_s: Any) -> float:
    """Check and return the time after which no run of a job begins, in seconds.

    Raises:
        ValueError: The value is not such a time.
    """
    if not _is_number(expires_s) or not 0 < expires_s <= LONGEST_S:
        raise ValueError(f"expires_s must be a number of seconds above 0, at most {LONGEST_S:,}")
    return float(expires_s)


def timeout_s_of(timeout_s: Any) -> float | None:
    """Check and return how long to wait, in seconds; None: without end. Below 0 counts as 0.

    Raises:
        ValueError: The value is not such a time.
    """
    if timeout_s is None:
        return None
    if not _is_number(timeout_s) or math.isnan(timeout_s):
        raise ValueError("timeout_s must be a number of seconds, or None")
    return None if timeout_s == math.inf else max(0.0, float(timeout_s))


def deadline_of(timeout_s: Any) -> float:
    """Return the end of a time to wait, by the monotonic clock; infinite if it never ends.

    Raises:
        ValueError: The value is not such a time.
    """
    checked_s = timeout_s_of(timeout_s)
    return math.inf if checked_s is None else time.monotonic() + checked_s


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number; True and False are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return is_whole(value) or isinstance(value, float)
