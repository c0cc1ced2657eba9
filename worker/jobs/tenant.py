"""The tenant of a job: on whose behalf it is, as its message says."""

from collections.abc import Mapping
from typing import Any, Final

from config.celery import DEFERRED
from worker.aio.transport.delayed import PRIORITY_STEPS, SEP
from worker.aio.transport.delaying import QueueNames
from worker.foreign_json import as_text, member

HEADER: Final = "tenant"
"""The header of a message that names the tenant."""

_LONGEST: Final = 200


def tenant_of(headers: Any) -> str:
    """Return the name that the headers of a message give; empty where they give none.

    A name is cut after 200 characters, and one that cannot be shown counts as none.
    """
    name = as_text(member(headers, HEADER))
    return name.strip()[:_LONGEST] if name.isprintable() else ""


def list_of(delivery_info: Mapping[str, Any] | None) -> str:
    """Name the list of the broker in which a job stood that has this delivery information.

    For a deferred job, this is the list in which it stood before.
    """
    info = delivery_info or {}
    queue = str(info.get("routing_key") or "").removesuffix(DEFERRED)
    names = QueueNames("", SEP, PRIORITY_STEPS, frozenset())
    return names.list_of(queue, info.get("priority"))
