"""Gives the jobs that a job sends its tenant: the steps of a chain, callbacks, and its own."""

from typing import Any

from celery import current_task

from worker.aio.transport.headers import TENANT


def pass_on_tenant(headers: dict[str, Any] | None = None, **_: Any) -> None:
    """Name in a message, before it is published, the tenant of the job that sends it.

    Args:
        headers: The headers of the message; what names a tenant stays.
    """
    request = current_task.request if current_task else None
    tenant = tenant_of(request) if request is not None else None
    if tenant is not None and headers is not None:
        headers.setdefault(TENANT, tenant)


def tenant_of(request: Any) -> str | None:
    """Name the tenant of a job; None where its message names none."""
    tenant = (getattr(request, "headers", None) or {}).get(TENANT)
    return tenant if isinstance(tenant, str) and tenant else None
