"""Reads the instant before which a message must not run, its header `eta`."""

from datetime import UTC, datetime
from typing import Any


def instant_of(eta: Any) -> datetime | None:
    """Read a message's instant; None where it has none, or none that can be read."""
    try:
        instant = datetime.fromisoformat(eta)
    except (TypeError, ValueError):
        return None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def waits(eta: Any, at_s: float) -> bool:
    """Whether a message waits for its instant at a moment, in seconds since 1970."""
    instant = instant_of(eta)
    return instant is not None and instant.timestamp() > at_s
