"""Writes the tenant and the instant of enqueueing into the messages that jobs send."""

import time
from collections.abc import Mapping
from typing import Any

from celery import current_task

from worker.jobs.message import ENQUEUED, TENANT, tenant_of


def pass_on_tenant(headers: dict[str, Any] | None = None, **_: Any) -> None:
    """Write the tenant of the job that sends a message into the message, before it is published.

    Args:
        headers: The headers of the message. A tenant that they already name stays.
    """
    tenant = tenant_of(current_task.request.headers) if current_task else ""
    if tenant and headers is not None:
        headers.setdefault(TENANT, tenant)


def note_enqueued(body: Any = None, headers: dict[str, Any] | None = None, **_: Any) -> None:
    """Write the current instant into a message with a `dedupe_key`, before it is published.

    The message of a job with an `eta` gets no instant, because such a job counts from its first run
    on.

    Args:
        body: The arguments, the keyword arguments and the options of the message.
        headers: The headers of the message. An instant that they already contain stays.
    """
    kwargs = body[1] if isinstance(body, tuple | list) and len(body) > 1 else None
    has_key = isinstance(kwargs, Mapping) and kwargs.get("dedupe_key") is not None
    if has_key and headers is not None and not headers.get("eta"):
        headers.setdefault(ENQUEUED, round(time.time() * 1000))
