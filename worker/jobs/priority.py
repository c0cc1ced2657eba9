"""Bulk jobs: those with a low priority in the message of Celery."""

from collections.abc import Mapping
from typing import Any, Final

BULK_PRIORITY: Final = 6
"""The first priority of bulk jobs.

On Redis 0 is the most urgent, and kombu keeps a list for each of 0, 3, 6 and 9.
"""


def is_bulk(delivery_info: Mapping[str, Any] | None) -> bool:
    """Whether the job of a message gives way to others, by its delivery information."""
    priority = (delivery_info or {}).get("priority")
    return isinstance(priority, int) and priority >= BULK_PRIORITY
