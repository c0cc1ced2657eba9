"""Gives the jobs that a job sends its tenant: the steps of a chain, callbacks, and its own."""

from typing import Any

from celery import current_task

from worker.jobs.tenant import HEADER, tenant_of


def pass_on_tenant(headers: dict[str, Any] | None = None, **_: Any) -> None:
    """Name in a message, before it is published, the tenant of the job that sends it.

    Args:
        headers: The headers of the message. A tenant that they name stays.
    """
    tenant = tenant_of(current_task.request.headers) if current_task else ""
    if tenant and headers is not None:
        headers.setdefault(HEADER, tenant)
