"""The place of a job in its queue, and when the keys allow its first call."""

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import Celery

from config.celery import CUSTOM_QUEUE, QUEUES
from worker.aio.transport.delayed import lists_of
from worker.aio.transport.finding import Found, find_job
from worker.jobs.services import service_of
from worker.keypool.forecast import CallCost, Estimate, Forecast, usual_tokens
from worker.runtime import Runtime

_NOWHERE = {"place": None, "waiting": None, "expected_start": None, "limited_by": ""}


async def place_of(app: Celery, job: str) -> dict[str, Any]:
    """Say how many jobs are before one in its queue, and when it may start.

    Args:
        app: The app, for its tasks.
        job: The job's id.

    Returns:
        `place`: 1 for the next one; None where it does not wait in a queue: it runs, is deferred or
        has ended, or no job has this id. `waiting`: how many wait in its queue. `expected_start`:
        an instant in ISO 8601; None where it is not known. `limited_by`: what decides that.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    runtime = Runtime.current()
    if runtime.broker is None:
        return dict(_NOWHERE)
    for queue in dict.fromkeys((*QUEUES, CUSTOM_QUEUE)):
        found = await find_job(runtime.broker, job, lists_of(queue))
        if found is not None:
            estimate = await _estimate(app, runtime, found)
            return {
                "place": found.before + 1,
                "waiting": found.waiting,
                "expected_start": _instant(estimate.in_s),
                "limited_by": estimate.limited_by,
            }
    return dict(_NOWHERE)


async def _estimate(app: Celery, runtime: Runtime, found: Found) -> Estimate:
    task = str(found.message["headers"].get("task"))
    service = service_of(task, app)
    if service is None:
        return Estimate(None)
    view = await runtime.pools[service.name].snapshot()
    cost = CallCost(model=_model_of(app, task, found.message), tokens=usual_tokens(view), emails=1)
    return Forecast(view, cost).call(found.before + 1)


def _model_of(app: Celery, task: str, message: dict[str, Any]) -> str:
    """The model that a job asks for first; empty where it asks for none."""
    models_of = getattr(app.tasks.get(task), "resources_of", None)
    try:
        _, kwargs, _ = json.loads(base64.b64decode(message["body"]))
        models = models_of(kwargs) if models_of is not None else None
    except (ValueError, KeyError, TypeError):
        return ""
    return str(models[0]) if models else ""


def _instant(in_s: float | None) -> str | None:
    if in_s is None:
        return None
    return (datetime.now(UTC) + timedelta(seconds=in_s)).isoformat(timespec="milliseconds")
