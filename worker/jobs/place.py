"""The place of a job in its queue, and when the keys allow its first call."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

from celery import Celery

from config.celery import CUSTOM_QUEUE, QUEUES
from worker.aio.transport.delayed import lists_of
from worker.aio.transport.finding import Found, find_job
from worker.jobs.quote import estimate, instant_in
from worker.jobs.services import service_of
from worker.keypool.forecast import Estimate, usual_tokens
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
            first_call = await _first_call(app, runtime, found)
            return {
                "place": found.before + 1,
                "waiting": found.waiting,
                "expected_start": instant_in(first_call.in_s, datetime.now(UTC)),
                "limited_by": first_call.limited_by,
            }
    return dict(_NOWHERE)


async def _first_call(app: Celery, runtime: Runtime, found: Found) -> Estimate:
    task = str(found.message["headers"].get("task"))
    service = service_of(task, app)
    if service is None:
        return Estimate(None)
    view = await runtime.pools[service.name].snapshot()
    model = _model_of(app, task, found.message)
    return estimate(view, found.before + 1, model=model, tokens=usual_tokens(view))


def _model_of(app: Celery, task: str, message: dict[str, Any]) -> str:
    """The model that a job asks for first; empty where it asks for none."""
    models_of = getattr(app.tasks.get(task), "resources_of", None)
    try:
        _, kwargs, _ = json.loads(base64.b64decode(message["body"]))
        models = models_of(kwargs) if models_of is not None else None
    except (ValueError, KeyError, TypeError):
        return ""
    return str(models[0]) if models else ""
