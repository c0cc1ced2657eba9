"""Serves a job with the shared objects of this process: the last step of each built-in task."""

from collections.abc import Callable
from typing import Any

from worker.jobs.dedupe import run_deduped
from worker.jobs.execution import run_job
from worker.keypool import LeaseRequest
from worker.runtime import Runtime


async def serve(
    task: Any,
    lease_request: LeaseRequest,
    order: Any,
    *,
    deadline_s: float | None,
    dedupe_key: str | None,
    on_shared: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Serve a job once, or share the result of the open job with the same dedupe key.

    Args:
        task: The bound task.
        lease_request: The job's requirements for a key.
        order: The request to carry out; see `run_job`.
        deadline_s: How long the job may take, in seconds; None: as long as the settings allow.
        dedupe_key: The job's dedupe key, if it has one.
        on_shared: Called with the result if it comes from another job.

    Returns:
        The provider's answer, with `key` (the label of the key that served), `attempts` (calls
        made, over all runs) and `waited_s` (seconds spent waiting).

    Raises:
        celery.exceptions.Retry: The job was sent back to its queue.
        JobError: The job fails for good.
    """
    runtime = Runtime.current()
    shared: dict[str, Any] = {
        "settings": runtime.settings,
        "deadline_s": deadline_s,
        "ownership": runtime.ownership,
        "outages": runtime.outages,
    }

    async def work() -> dict[str, Any]:
        served, history = await run_job(
            task, runtime.senders[task.service], lease_request, order, **shared
        )
        return served.value | {
            "key": served.key,
            "attempts": history.attempts,
            "waited_s": round(history.waited_ms / 1000, 3),
        }

    return await run_deduped(
        task, runtime.dedupe_keys, dedupe_key, work, **shared, on_shared=on_shared
    )
