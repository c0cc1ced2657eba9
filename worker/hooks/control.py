"""Remote-control commands that every worker answers."""

from typing import Any

from billiard.common import TERM_SIGNAME
from celery.platforms import signals
from celery.utils.functional import maybe_list
from celery.worker import control
from celery.worker.control import control_command
from redis.exceptions import RedisError

from config.errors import SettingsError
from worker.aio import lifespan
from worker.aio.redis_retry import safe_message
from worker.runtime import Runtime
from worker.startup.machine import too_few_files

_TIMEOUT_S = 10
_NO_COUNT = "{} must be a whole number, at least 1"


@control_command(variadic="task_id", signature="[id1 [id2 [... [idN]]]]")
def revoke(state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **_: Any) -> Any:  # noqa: FBT001, FBT002 - Celery's
    """Cancel jobs by their ids, for good.

    Celery's own command is forgotten when the workers that received it end, and it stores `REVOKED`
    even for a job that another worker runs.
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

    Celery's own command is forgotten when the workers that received it end. This one also stores
    the cancel.
    """
    stamps = (
        dict(str(pair).split("=", 1) for pair in headers) if isinstance(headers, list) else headers
    )
    answer = control.revoke_by_stamped_headers(state, stamps, **options)
    state.consumer.cancelling.cancel_stamped(stamps)
    return answer


@control_command(args=[("n", int)], signature="[N=1]")
def pool_grow(state: Any, n: Any = 1, **options: Any) -> Any:
    """Let the worker run N more jobs at a time, if it may open enough files for them.

    Celery's own command accepts any number, and then each call beyond the limit would fail.
    """
    if not _is_count(n):
        return control.nok(_NO_COUNT.format("N"))
    objection = too_few_files(state.consumer.pool.limit + n, source="The concurrency")
    return control.nok(objection) if objection else control.pool_grow(state, n, **options)


@control_command(args=[("n", int)], signature="[N=1]")
def pool_shrink(state: Any, n: Any = 1, **options: Any) -> Any:
    """Let the worker run N fewer jobs at a time, but at least one.

    Celery's own command would let it run more jobs if N is negative.
    """
    if not _is_count(n):
        return control.nok(_NO_COUNT.format("N"))
    return control.pool_shrink(state, n, **options)


@control_command(args=[("max", int), ("min", int)], signature="[max [min]]")
def autoscale(state: Any, max: Any = None, min: Any = None) -> Any:  # noqa: A002 - Celery's names
    """Change the bounds of autoscale, if the worker may open enough files for them."""
    if max is not None and not _is_count(max):
        return control.nok(_NO_COUNT.format("max"))
    if min is not None and not (_is_count(min) or (type(min) is int and min == 0)):
        return control.nok("min must be a whole number, at least 0")
    scaler = state.consumer.controller.autoscaler
    if scaler and (objection := _objection_to(scaler, max, min)):
        return control.nok(objection)
    return control.autoscale(state, max, min)


def _objection_to(scaler: Any, most: int | None, least: int | None) -> str | None:
    """Say why autoscale cannot have these bounds; None if it can."""
    highest = scaler.max_concurrency if most is None else most
    lowest = scaler.min_concurrency if least is None else least
    if lowest > highest:
        return f"min ({lowest}) must not be above max ({highest})"
    return too_few_files(highest, source="The max of autoscale")


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


@control_command()
def keys_reload(state: Any) -> dict[str, Any]:
    """Reload the API keys from the environment and `.env`."""

    async def reload() -> dict[str, int]:
        return await Runtime.current().reload_keys()

    try:
        keys = lifespan.submit(reload()).result(timeout=_TIMEOUT_S)
    except SettingsError as exc:
        return {"error": str(exc)}
    except (RedisError, OSError) as exc:
        why = f"for {_TIMEOUT_S} s" if type(exc) is TimeoutError else f"({safe_message(exc)})"
        return {"error": f"Redis has not answered {why}: reload the keys again once it does"}
    queue_choice = state.consumer.controller.queue_choice
    state.consumer.call_soon(queue_choice.follow, state.consumer, keys)
    return {"ok": ", ".join(f"{count} {service}" for service, count in keys.items())}
