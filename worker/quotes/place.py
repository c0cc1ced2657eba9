"""Finds the place of a job in its queue, and estimates when the keys allow its first call."""

import base64
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from celery import Celery
from redis.asyncio import Redis

from config.celery import CUSTOM_QUEUE, QUEUES
from worker.aio.transport.delayed import lists_of
from worker.aio.transport.finding import find_job
from worker.attempts import Trail
from worker.jobs.history import History
from worker.jobs.task_service import service_of
from worker.keypool.forecast import Estimate, usual_tokens
from worker.quotes.quote import estimate, instant_in
from worker.runtime import Runtime

_NOWHERE = {"place": None, "waiting": None, "expected_start": None, "limited_by": ""}


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a job that waits in its queue.

    Attributes:
        number: The job's place; 1 for the next job.
        waiting: How many jobs wait in the queue.
        task: The task's name.
        model: The model that the job asks for first; empty if it asks for none.
        trail: The calls of the job's earlier runs.
    """

    number: int
    waiting: int
    task: str
    model: str
    trail: Trail


async def find_place(app: Celery, job: str, broker: Redis) -> Place | None:
    """Look for a job in all queues.

    Args:
        app: The app, for its tasks.
        job: The job's id.
        broker: The Redis of the broker.

    Returns:
        None if the job waits in no queue (it runs, is deferred or has ended, or no job has this
        id), or if more than 20,000 jobs are before it in its list.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    for queue in dict.fromkeys((*QUEUES, CUSTOM_QUEUE)):
        found = await find_job(broker, job, lists_of(queue))
        if found is not None:
            headers = found.message["headers"]
            task = str(headers.get("task"))
            return Place(
                found.before + 1,
                found.waiting,
                task,
                _model_of(app, task, found.message),
                History.of(headers).trail,
            )
    return None


async def place_of(app: Celery, job: str) -> dict[str, Any]:
    """Return the place of a job in its queue, and when it may start.

    Args:
        app: The app, for its tasks.
        job: The job's id.

    Returns:
        `place`: 1 for the next job; None if `find_place` does not find the job. `waiting`: how many
        jobs wait in its queue. `expected_start`: an instant in ISO 8601; None if it is not known.
        `limited_by`: the cause of the wait, as in `Estimate`.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    runtime = Runtime.current()
    place = None if runtime.broker is None else await find_place(app, job, runtime.broker)
    if place is None:
        return dict(_NOWHERE)
    first_call = await _first_call(app, runtime, place)
    return {
        "place": place.number,
        "waiting": place.waiting,
        "expected_start": instant_in(first_call.in_s, datetime.now(UTC)),
        "limited_by": first_call.limited_by,
    }


async def _first_call(app: Celery, runtime: Runtime, place: Place) -> Estimate:
    service = service_of(place.task, app)
    if service is None:
        return Estimate(None)
    view = await runtime.pools[service.name].snapshot()
    return estimate(view, place.number, model=place.model, tokens=usual_tokens(view))


def _model_of(app: Celery, task: str, message: dict[str, Any]) -> str:
    """Return the model that a job asks for first; empty if it asks for none."""
    models_of = getattr(app.tasks.get(task), "resources_of", None)
    try:
        _, kwargs, _ = json.loads(base64.b64decode(message["body"]))
        models = models_of(kwargs) if models_of is not None else None
    except (ValueError, KeyError, TypeError):
        return ""
    return str(models[0]) if models else ""
