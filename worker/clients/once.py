"""Steps of a task that are not repeated when the task runs again."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

from celery import current_task
from redis.asyncio import Redis

from worker.clients.session import runtime
from worker.redis.retry import retry_while_down

ResultT = TypeVar("ResultT")

_MOST_BYTES: Final = 1_000_000
_LOCKS: WeakValueDictionary[tuple[asyncio.AbstractEventLoop, str], asyncio.Lock] = (
    WeakValueDictionary()
)
"""Held while a step runs, so that calls at the same time run it once."""


async def once(step: str, make: Callable[[], Awaitable[ResultT]]) -> ResultT:
    """Run a step of a job, or give what it gave in an earlier run of the same job.

    A job that is deferred at its third call does not pay for the first two again. Redis keeps the
    result for as long as the job may take, `KEYWHEEL_DEADLINE_S` and a day beyond. Outside a job
    the step runs each time. Calls of one step at the same time run it once, so a step must not
    contain itself.

    Args:
        step: The name of the step, unique in the task.
        make: Runs the step.

    Returns:
        What `make` returned, as JSON gives it back: a tuple comes back as a list.

    Raises:
        TypeError: The result is not JSON, or larger than 1 MB; the step has run.
        Deferred: Redis did not answer for a minute.
    """
    job = current_task.request.id if current_task else None
    if not job:
        return await make()
    shared = await runtime()
    name = f"{shared.settings.namespace}:step:{job}:{step}"
    expires_s = round(shared.settings.deadline_s) + 86_400
    place = (asyncio.get_running_loop(), name)
    lock = _LOCKS.get(place)
    if lock is None:
        _LOCKS[place] = lock = asyncio.Lock()
    async with lock:
        return await _once(shared.redis, name, step, make, expires_s)


async def _once(
    redis: Redis, name: str, step: str, make: Callable[[], Awaitable[ResultT]], expires_s: int
) -> ResultT:
    kept = await retry_while_down(lambda: _get(redis, name))
    if kept is not None:
        found: ResultT = json.loads(kept)
        return found
    result = await make()
    try:
        text = json.dumps(result, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as exc:
        raise TypeError(f"once: the result of step {step!r} is not JSON: {exc}") from None
    if len(text) > _MOST_BYTES:
        raise TypeError(f"once: the result of step {step!r} is larger than {_MOST_BYTES} bytes")
    await retry_while_down(lambda: _set(redis, name, text, expires_s))
    loaded: ResultT = json.loads(text)
    return loaded


async def _get(redis: Redis, name: str) -> Any:
    return await redis.get(name)


async def _set(redis: Redis, name: str, text: str, expires_s: int) -> None:
    await redis.set(name, text, ex=expires_s)
