"""Waits for another job's result without blocking the event loop."""

import asyncio
import itertools
import math
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
    """Return the result of a job, or the list of a group's results, as `result.get()` does.

    If the task ignores its results, None is returned at once. With `propagate`, the exception of an
    earlier job of the same chain is raised as well.

    Args:
        result: The return value of `delay` or `apply_async`.
        timeout_s: How long to wait at most, in seconds. Default: for ever.
        propagate: Whether to raise the job's exception instead of returning it.

    Raises:
        celery.exceptions.TimeoutError: The result did not come in time.
        Exception: The exception of the job, or of an earlier job of its chain.
    """
    deadline_s = time.monotonic() + (math.inf if timeout_s is None else timeout_s)
    return await _value_of(result, deadline_s, propagate=propagate)


async def _value_of(result: Any, deadline_s: float, *, propagate: bool) -> Any:
    if isinstance(result, ResultSet):
        return [await _value_of(each, deadline_s, propagate=propagate) for each in result.results]
    if isinstance(result, EagerResult):
        return result.get(propagate=propagate, disable_sync_subtasks=False)
    if result.ignored:
        return None
    return await _awaited(result, deadline_s, propagate=propagate)


async def _awaited(result: AsyncResult, deadline_s: float, *, propagate: bool) -> Any:
    earlier = list(_earlier(result)) if propagate else []
    pause_s = _FIRST_PAUSE_S
    while True:
        # The earliest job is checked first: if it has failed or was revoked, the later jobs may
        # never have a result.
        ready = await asyncio.gather(*(_is_ready(link) for link in earlier))
        for link in itertools.compress(earlier, ready):
            link.maybe_throw()
        earlier = [link for link, is_ready in zip(earlier, ready, strict=True) if not is_ready]
        if await _is_ready(result):
            return result.maybe_throw(propagate=propagate)
        if time.monotonic() >= deadline_s:
            raise CeleryTimeoutError(f"no result of {result.id} in time")
        await asyncio.sleep(min(pause_s, max(deadline_s - time.monotonic(), 0)))
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)


def _earlier(result: Any) -> Iterator[Any]:
    """Yield the earlier results of a chain, earliest first; of a chord, its header's results."""
    if result.parent is not None:
        yield from _earlier(result.parent)
        yield from _parts(result.parent)


def _parts(result: Any) -> Iterator[Any]:
    if isinstance(result, ResultSet):
        for each in result.results:
            yield from _parts(each)
    elif not isinstance(result, EagerResult):
        yield result


async def _is_ready(result: Any) -> bool:
    """Whether a result is stored; if so, it is cached in `result`, as Celery caches it."""
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
