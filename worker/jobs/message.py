"""Reads from a message its job's priority, its tenant, and when it was enqueued."""

from collections.abc import Mapping
from typing import Any, Final

from config.celery import DEFERRED
from worker.aio.transport.delayed import PRIORITY_STEPS, SEP
from worker.aio.transport.delaying import QueueNames
from worker.foreign_json import as_text, member

BULK_PRIORITY: Final = 6
"""The first priority of bulk jobs.

In Redis, 0 is the most urgent priority; kombu keeps one list for each of 0, 3, 6 and 9.
"""


def is_bulk(delivery_info: Mapping[str, Any] | None) -> bool:
    """Whether a message with this delivery information has a bulk job, which yields to others."""
    priority = member(delivery_info, "priority")
    return isinstance(priority, int) and priority >= BULK_PRIORITY


TENANT: Final = "tenant"
"""The header of a message that names the tenant."""

_LONGEST: Final = 200


def tenant_of(headers: Any) -> str:
    """Return the tenant's name in the headers of a message; empty if there is none.

    A name is cut after 200 characters. A name with unprintable characters counts as none.
    """
    name = as_text(member(headers, TENANT))
    return name.strip()[:_LONGEST] if name.isprintable() else ""


def list_of(delivery_info: Mapping[str, Any] | None) -> str:
    """Name the broker's list from which a message with this delivery information came.

    For a deferred job, this is the list that the job was in before it was deferred.
    """
    info = delivery_info or {}
    queue = str(info.get("routing_key") or "").removesuffix(DEFERRED)
    names = QueueNames("", SEP, PRIORITY_STEPS, frozenset())
    return names.list_of(queue, info.get("priority"))


ENQUEUED: Final = "enqueued_ms"
"""The header with the instant at which a message was enqueued, in milliseconds since 1970."""

_MOST: Final = 2**53


def enqueued_ms_of(headers: Any) -> int:
    """Return when a message was enqueued, in milliseconds since 1970; 0 if its headers lack it."""
    found = member(headers, ENQUEUED)
    return found if type(found) is int and 0 < found <= _MOST else 0
