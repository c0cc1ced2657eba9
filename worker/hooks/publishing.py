"""Writes into the messages that jobs send what belongs to their jobs: tenant and instant."""

import time
from collections.abc import Mapping
from typing import Any

from celery import current_task

from worker.jobs.message import ENQUEUED, TENANT, tenant_of


def pass_on_tenant(headers: dict[str, Any] | None = None, **_: Any) -> None:
    """Name in a message, before it is published, the tenant of the job that sends it.

    Args:
        headers: The headers of the message. A tenant that they name stays.
    """
    tenant = tenant_of(current_task.request.headers) if current_task else ""
    if tenant and headers is not None:
        headers.setdefault(TENANT, tenant)


def note_enqueued(body: Any = None, headers: dict[str, Any] | None = None, **_: Any) -> None:
    """Write the instant into a message with a `dedupe_key`, before it is published.

    A job that is to run later counts from its first run on, so its message gets none.

    Args:
        body: The arguments, the keyword arguments and the options of the message.
        headers: Its headers. An instant that they give stays.
    """
    kwargs = body[1] if isinstance(body, tuple | list) and len(body) > 1 else None
    has_key = isinstance(kwargs, Mapping) and kwargs.get("dedupe_key") is not None
    if has_key and headers is not None and not headers.get("eta"):
        headers.setdefault(ENQUEUED, round(time.time() * 1000))
