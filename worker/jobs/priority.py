"""Which jobs are bulk: told by the priority that Celery's own message carries."""

from collections.abc import Mapping
from typing import Any, Final

BULK_PRIORITY: Final = 6
"""From this priority on a job is bulk.

On Redis 0 is the most urgent, and kombu keeps a list for each of 0, 3, 6, 9.
"""


def is_bulk(delivery_info: Mapping[str, Any] | None) -> bool:
    """Whether a message's delivery information says that its job gives way to others."""
    priority = (delivery_info or {}).get("priority")
    return isinstance(priority, int) and priority >= BULK_PRIORITY
