"""What a message says of its job: whether it gives way, its tenant, when it was enqueued."""

from collections.abc import Mapping
from typing import Any, Final

from config.celery import DEFERRED
from worker.aio.transport.delayed import PRIORITY_STEPS, SEP
from worker.aio.transport.delaying import QueueNames
from worker.foreign_json import as_text, member

BULK_PRIORITY: Final = 6
"""The first priority of bulk jobs.

On Redis 0 is the most urgent, and kombu keeps a list for each of 0, 3, 6 and 9.
"""


def is_bulk(delivery_info: Mapping[str, Any] | None) -> bool:
    """Whether the job of a message gives way to others, by its delivery information."""
    priority = member(delivery_info, "priority")
    return isinstance(priority, int) and priority >= BULK_PRIORITY


TENANT: Final = "tenant"
"""The header of a message that names the tenant."""

_LONGEST: Final = 200


def tenant_of(headers: Any) -> str:
    """Return the name that the headers of a message give; empty where they give none.

    A name is cut after 200 characters, and one that cannot be shown counts as none.
    """
    name = as_text(member(headers, TENANT))
    return name.strip()[:_LONGEST] if name.isprintable() else ""


def list_of(delivery_info: Mapping[str, Any] | None) -> str:
    """Name the list of the broker in which a job stood that has this delivery information.

    For a deferred job, this is the list in which it stood before.
    """
    info = delivery_info or {}
    queue = str(info.get("routing_key") or "").removesuffix(DEFERRED)
    names = QueueNames("", SEP, PRIORITY_STEPS, frozenset())
    return names.list_of(queue, info.get("priority"))


ENQUEUED: Final = "enqueued_ms"
"""The header of a message with the instant, in milliseconds since 1970."""

_MOST: Final = 2**53


def enqueued_ms_of(headers: Any) -> int:
    """Return the instant that the headers of a message give, in milliseconds; 0: they give none."""
    found = member(headers, ENQUEUED)
    return found if type(found) is int and 0 < found <= _MOST else 0
