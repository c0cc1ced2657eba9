"""Remote-control commands that every worker answers."""

from typing import Any

from billiard.common import TERM_SIGNAME
from celery.platforms import signals
from celery.utils.functional import maybe_list
from celery.worker import control
from celery.worker.control import control_command

from config.errors import SettingsError
from worker.aio import lifespan
from worker.runtime import Runtime

_TIMEOUT_S = 10


@control_command(variadic="task_id", signature="[id1 [id2 [... [idN]]]]")
def revoke(state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **_: Any) -> Any:  # noqa: FBT001, FBT002 - Celery's
    """Cancel jobs by their ids, for good.

    It replaces Celery's own command: that lasts as long as the workers that received it, and stores
    `REVOKED` even for a job that another worker runs.
    """
    ids = [str(job_id) for job_id in maybe_list(task_id) or ()]
    state.consumer.cancelling.cancel(ids)
    if not terminate:
        return control.ok(f"tasks {set(ids)} flagged as revoked")
    running = list(control._find_requests_by_id(ids))  # noqa: SLF001 - as Celery's own does
    for request in running:
        request.terminate(state.consumer.pool, signal=signals.signum(signal or TERM_SIGNAME))
    terminated = ", ".join(request.id for request in running)
    return control.ok(f"terminate: {terminated or 'tasks unknown'}")


@control_command(
    variadic="task_id", args=[("signal", str)], signature="<signal> [id1 [id2 [... [idN]]]]"
)
def terminate(state: Any, signal: Any, task_id: Any, **kwargs: Any) -> Any:
    """Cancel jobs by their ids, running ones included."""
    return revoke(state, task_id, terminate=True, signal=signal, **kwargs)


@control_command(variadic="headers", signature="[key1=value1 [key2=value2 [... [keyN=valueN]]]]")
def revoke_by_stamped_headers(state: Any, headers: Any, **options: Any) -> Any:
    """Cancel all jobs that have one of these stamps, for good.

    Celery's own command lasts as long as the workers that received it; this one stores the cancel
    as well.
    """
    stamps = (
        dict(str(pair).split("=", 1) for pair in headers) if isinstance(headers, list) else headers
    )
    answer = control.revoke_by_stamped_headers(state, stamps, **options)
    state.consumer.cancelling.cancel_stamped(stamps)
    return answer


@control_command()
def keys_reload(state: Any) -> dict[str, Any]:
    """Reload the API keys from the environment and `.env`."""

    async def reload() -> dict[str, int]:
        return await Runtime.current().reload_keys()

    try:
        keys = lifespan.submit(reload()).result(timeout=_TIMEOUT_S)
    except SettingsError as exc:
        return {"error": str(exc)}
    queue_choice = state.consumer.controller.queue_choice
    state.consumer.call_soon(queue_choice.follow, state.consumer, keys)
    return {"ok": ", ".join(f"{count} {service}" for service, count in keys.items())}
