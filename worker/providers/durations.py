"""Reads the durations that providers state, as whole milliseconds.

Forms: `7.66s`, `2m59.56s`, `400ms`, `20`, an HTTP date.
"""

import re
from decimal import ROUND_CEILING, Decimal
from email.utils import parsedate_to_datetime

MAX_MS = 31 * 86_400_000
"""The longest duration that is read, 31 days in milliseconds; a longer one counts as this."""

_MAX_CHARS = 64
_UNIT_MS = {
    "ns": Decimal("0.000001"),
    "us": Decimal("0.001"),
    "ms": Decimal(1),
    "s": Decimal(1_000),
    "m": Decimal(60_000),
    "h": Decimal(3_600_000),
    "d": Decimal(86_400_000),
}
_UNIT_NAMES = {
    "µs": "us",
    "millisecond": "ms",
    "sec": "s",
    "second": "s",
    "min": "m",
    "minute": "m",
    "hr": "h",
    "hour": "h",
    "day": "d",
}
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
_ONE_OF_SEVERAL = re.compile(r"[A-Za-z]{3,9}, [^,]+|[^,]+")
_MAX_SEVERAL_CHARS = 1_000
_PART = re.compile(r"((?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))\s?([a-zµ]+)\s?")


def duration_ms(text: str | float) -> int | None:
    """Read a length of time; a number without a unit counts seconds.

    Args:
        text: A duration such as `7.66s`, `1h2m3s`, `400ms`, `2 minutes`, `20`, `1.5`.

    Returns:
        Milliseconds from 0 to `MAX_MS`, rounded up so that a wait is never too short; None if the
        text is not a duration.
    """
    cleaned = str(text).strip().lower()
    if not cleaned or len(cleaned) > _MAX_CHARS:
        return None
    if _NUMBER.fullmatch(cleaned):
        return _clamp(Decimal(cleaned) * _UNIT_MS["s"])
    total, position = Decimal(0), 0
    while position < len(cleaned):
        part = _PART.match(cleaned, position)
        unit_ms = _unit_ms(part[2]) if part else None
        if part is None or unit_ms is None:
            return None
        total += Decimal(part[1]) * unit_ms
        position = part.end()
    return _clamp(total)


def retry_after_ms(text: str, *, now_s: float) -> int | None:
    """Read a `retry-after` header: seconds, a duration, or an HTTP date.

    Args:
        text: The header's value. Several headers are joined by commas, as HTTP allows; the longest
            wait counts.
        now_s: The current time, in seconds since the epoch, from which a date is counted.

    Returns:
        Milliseconds from now, below `MAX_MS`; 0 for a date in the past. None if the value cannot be
        read or is a longer wait: an account must not rest for weeks because of a mistake.
    """
    waits_ms = (
        _wait_ms(duration.strip(), now_s=now_s)
        for duration in _ONE_OF_SEVERAL.findall(text[:_MAX_SEVERAL_CHARS])
    )
    return max((ms for ms in waits_ms if ms is not None and ms < MAX_MS), default=None)


def _wait_ms(text: str, *, now_s: float) -> int | None:
    stated = duration_ms(text)
    if stated is not None or len(text) > _MAX_CHARS:
        return stated
    try:
        instant_s = parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):  # OverflowError: a number is too large
        return None
    return _clamp(Decimal(instant_s - now_s) * 1_000)


def _unit_ms(word: str) -> Decimal | None:
    name = word.removesuffix("s") if len(word) > 2 else word  # noqa: PLR2004 - "ms" is not a plural
    return _UNIT_MS.get(_UNIT_NAMES.get(name, name))


def _clamp(milliseconds: Decimal) -> int:
    bounded = min(max(milliseconds, Decimal(0)), Decimal(MAX_MS))
    return int(bounded.to_integral_value(rounding=ROUND_CEILING))
