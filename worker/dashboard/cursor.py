"""Where a page of a list begins, though several entries may be of one millisecond."""

from collections.abc import Sequence

from worker.dashboard.errors import ApiError, BadRequest
from worker.dashboard.request_body import whole_number

LATEST_MS = 10**15 - 1
"""Later than whatever is listed."""

_MOST_SKIPPED = 2_000
_NO_CURSOR = "before must be milliseconds since 1970, or the next_before of an earlier page."


def read_cursor(text: str) -> tuple[int, int]:
    """Read where a page begins.

    Args:
        text: `MS`, or `MS-N` to skip the first N entries before that millisecond.

    Returns:
        The millisecond, and how many entries to skip.

    Raises:
        ApiError: 400 where it is neither.
    """
    ms, _, skipped = text.partition("-")
    try:
        return (
            whole_number(ms, "before", most=LATEST_MS),
            whole_number(skipped, "before", most=_MOST_SKIPPED) if skipped else 0,
        )
    except ApiError:
        raise BadRequest(_NO_CURSOR) from None


def next_cursor(times_ms: Sequence[int], shown: int) -> str | None:
    """Where the next page begins.

    Args:
        times_ms: When the entries were, those that the cursor had skipped included.
        shown: How many of them are on this page or before it.

    Returns:
        A cursor as `read_cursor` reads it; None where this page is the last one.
    """
    if len(times_ms) <= shown:
        return None
    last_ms = times_ms[shown - 1]
    return f"{last_ms + 1}-{sum(at_ms == last_ms for at_ms in times_ms[:shown])}"
