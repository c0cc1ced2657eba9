"""Lists deferred jobs: what each waits for, and until when."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from celery import Celery
from redis.exceptions import RedisError

from worker.aio.transport import delayed

_FIRST, _LAST = 10, 5


@dataclass(frozen=True, slots=True)
class DeferredJob:
    """A job that waits in the broker for its next try.

    Attributes:
        id: The job's id.
        next_try_ms: When the job comes back, in milliseconds since 1970, by the broker's clock.
        kind: `key` if no key can serve the job, `failure` if a call failed; empty if not known.
        code: The reason, as stored with the job's result (see `docs/results.md`); empty if not
            known.
        expected_end_ms: When the wait is expected to end, in milliseconds since 1970; None if not
            known.
    """

    id: str
    next_try_ms: int
    kind: str = ""
    code: str = ""
    expected_end_ms: int | None = None


def deferred_jobs(app: Celery, client: Any, lists: Iterable[str]) -> tuple[DeferredJob, ...]:
    """List the jobs of a queue that come back first, and those that come back last.

    Args:
        app: The Celery app; its result store holds the reason why a job waits.
        client: A client of the broker's Redis.
        lists: The queue's lists, one for each priority.

    Returns:
        At most 15 jobs, in the order in which they come back.

    Raises:
        redis.exceptions.RedisError: The broker cannot be reached.
    """
    with client.pipeline(transaction=False) as pipe:
        pipe.time()
        for name in lists:
            pipe.zrange(delayed.due_of(name), 0, _FIRST - 1, withscores=True)
            pipe.zrange(delayed.due_of(name), -_LAST, -1, withscores=True)
        (seconds, micros), *ranges = pipe.execute()
    now_us = seconds * 1_000_000 + micros
    # A reset makes jobs due by moving their instants far into the past.
    due_us = {_text(job): max(now_us, at_us) for pairs in ranges for job, at_us in pairs}
    jobs = [
        DeferredJob(job, round(at_us / 1000))
        for job, at_us in sorted(due_us.items(), key=lambda pair: pair[1])
    ]
    return _with_reasons(
        app, jobs if len(jobs) <= _FIRST + _LAST else jobs[:_FIRST] + jobs[-_LAST:]
    )


def _with_reasons(app: Celery, jobs: list[DeferredJob]) -> tuple[DeferredJob, ...]:
    backend: Any = app.backend
    if not jobs or not hasattr(backend, "mget"):  # results are kept elsewhere, or not at all
        return tuple(jobs)
    try:
        results = backend.mget([backend.get_key_for_task(job.id) for job in jobs])
    except RedisError:
        return tuple(jobs)
    return tuple(
        _with_reason(job, _waits_in(backend, text)) for job, text in zip(jobs, results, strict=True)
    )


def _with_reason(job: DeferredJob, waits: dict[str, Any]) -> DeferredJob:
    return replace(
        job,
        kind=str(waits.get("kind", "")),
        code=str(waits.get("code", "")),
        expected_end_ms=ms_of(waits.get("expected_end")),
    )


def ms_of(instant: Any) -> int | None:
    """Convert an instant of a result to milliseconds since 1970; None if it is not an instant."""
    try:
        return round(datetime.fromisoformat(instant).timestamp() * 1000)
    except (TypeError, ValueError):
        return None


def _waits_in(backend: Any, result: Any) -> dict[str, Any]:
    try:
        waits = backend.decode(result)["waits"]
    except Exception:  # noqa: BLE001 - there is no result, or another program wrote it
        return {}
    return waits if isinstance(waits, dict) else {}


def _text(job: Any) -> str:
    return job.decode("utf-8", "replace") if isinstance(job, bytes) else str(job)
