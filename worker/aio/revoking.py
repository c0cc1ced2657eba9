"""Ends jobs that were revoked, or whose `expires` passed, while they waited in the pool."""

from datetime import UTC, datetime
from typing import Any

from celery.worker import state
from celery.worker.request import Request

from worker.aio import reports


def is_revoked(request: Any) -> bool:
    """Whether a job must not begin, because it was revoked or has expired. From any thread."""
    if not isinstance(request, Request):
        return False
    if state.revoked and request.id in state.revoked:
        return True
    expires: datetime | None = request.expires
    if expires is not None and datetime.now(UTC if expires.tzinfo else None) > expires:
        return True
    return bool(state.revoked_stamps) and _is_revoked_by_stamp(request)


def _is_revoked_by_stamp(request: Any) -> bool:
    stamps = request.stamps
    return any(
        not set(_collection_of(stamps.get(stamp))).isdisjoint(_collection_of(revoked))
        for stamp, revoked in dict(state.revoked_stamps).items()
    )


def _collection_of(value: Any) -> "list[Any] | tuple[Any, ...] | set[Any]":
    if value is None:
        return ()
    return value if isinstance(value, list | tuple | set) else (value,)


def announce(request: Any) -> None:
    """End a revoked or expired job as Celery does. On the consumer's thread."""
    try:
        revoked = request.revoked()
    except Exception as exc:  # noqa: BLE001 - of the result store, or of a signal's receiver
        reports.settle(request, exc)
        return
    if not revoked:  # Celery has forgotten the revoke, because its list has a maximum length
        request.reject(requeue=True)
