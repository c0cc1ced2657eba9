"""Reads a message's header `eta`, the instant before which its job must not run."""

from datetime import UTC, datetime
from typing import Any


def instant_of(eta: Any) -> datetime | None:
    """Return the instant of a header `eta`; None if there is none, or it cannot be read."""
    try:
        instant = datetime.fromisoformat(eta)
    except (TypeError, ValueError):
        return None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def waits(eta: Any, at_s: float) -> bool:
    """Return whether a message's instant is later than a moment, in seconds since 1970."""
    instant = instant_of(eta)
    return instant is not None and instant.timestamp() > at_s
