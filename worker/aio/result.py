"""Waits for another task's result without blocking the event loop."""

import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import Any

from celery import states
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import AsyncResult, EagerResult, ResultSet

from worker.aio.backend import RedisBackend

_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 0.25


async def await_result(
    result: AsyncResult | ResultSet, *, timeout_s: float | None = None, propagate: bool = True
) -> Any:
    """Give the result of a task, or the list of a group's, as `result.get()` would.

    A task that ignores its result gives None at once, and the failure of an earlier link of a chain
    is its own.

    Args:
        result: What `delay` or `apply_async` gave.
        timeout_s: How long to wait at most, in seconds. Default: for ever.
        propagate: Raise what the task raised, rather than give it.

    Raises:
        celery.exceptions.TimeoutError: It was not there in time.
        Exception: What the task raised.
    """
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    return await _one(result, deadline_s, propagate=propagate)


async def _one(result: Any, deadline_s: float | None, *, propagate: bool) -> Any:
    if isinstance(result, ResultSet):
        return [await _one(each, deadline_s, propagate=propagate) for each in result.results]
    if isinstance(result, EagerResult):
        return result.get(propagate=propagate, disable_sync_subtasks=False)
    if result.ignored:
        return None
    earlier = list(_earlier(result)) if propagate else []
    pause_s = _FIRST_PAUSE_S
    while True:
        # The earliest first: where that failed or was revoked, those after it may never have a
        # result.
        there = await asyncio.gather(*(_look(link) for link in earlier))
        for link in itertools.compress(earlier, there):
            link.maybe_throw()
        earlier = [link for link, is_there in zip(earlier, there, strict=True) if not is_there]
        if await _look(result):
            return result.maybe_throw(propagate=propagate)
        if deadline_s is not None and time.monotonic() >= deadline_s:
            raise CeleryTimeoutError(f"no result of {result.id} in time")
        left_s = (
            pause_s if deadline_s is None else min(pause_s, max(deadline_s - time.monotonic(), 0))
        )
        await asyncio.sleep(left_s)
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)


def _earlier(result: Any) -> Iterator[Any]:
    """Give the links before this one, the earliest first; of a chord's header each task."""
    if result.parent is not None:
        yield from _earlier(result.parent)
        yield from _parts(result.parent)


def _parts(result: Any) -> Iterator[Any]:
    if isinstance(result, ResultSet):
        for each in result.results:
            yield from _parts(each)
    elif not isinstance(result, EagerResult):
        yield result


async def _look(result: Any) -> bool:
    """Whether a result is there.

    It is kept with `result` then, as Celery's own result consumer does.
    """
    if result._cache is None:  # noqa: SLF001
        result._maybe_set_cache(await _meta(result))  # noqa: SLF001
    return result._cache is not None  # noqa: SLF001


async def _meta(result: Any) -> dict[str, Any]:
    backend = result.backend
    if isinstance(backend, RedisBackend) and backend.awaits_in_jobs:
        (payload,) = await backend.run(("GET", backend.get_key_for_task(result.id)))
        return backend.decode_result(payload) if payload else {"status": states.PENDING}
    meta: dict[str, Any] = await asyncio.to_thread(backend.get_task_meta, result.id)
    return meta
