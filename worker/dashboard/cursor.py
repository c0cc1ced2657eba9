"""Reads and makes cursors for the pages of a list, whose entries may share a millisecond."""

from collections.abc import Sequence

from worker.dashboard.errors import ApiError, BadRequest
from worker.dashboard.request_body import whole_number

LATEST_MS = 10**15 - 1
"""Later than every entry of a list."""

_MOST_SKIPPED = 2_000
_NO_CURSOR = "before must be milliseconds since 1970, or the next_before of an earlier page."


def read_cursor(text: str) -> tuple[int, int]:
    """Read where a page begins.

    Args:
        text: `MS`, or `MS-N` to skip the first N entries before that millisecond.

    Returns:
        The millisecond, and how many entries to skip.

    Raises:
        ApiError: 400 if the text has another form.
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
    """Return the cursor of the next page.

    Args:
        times_ms: The times of the entries, including the entries that the cursor skipped.
        shown: How many of these entries are on this page or were skipped.

    Returns:
        A cursor for `read_cursor`; None if this page is the last one.
    """
    if len(times_ms) <= shown:
        return None
    last_ms = times_ms[shown - 1]
    return f"{last_ms + 1}-{sum(at_ms == last_ms for at_ms in times_ms[:shown])}"
