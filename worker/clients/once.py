"""Runs steps of a task that are not repeated when the task runs again."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

from celery import current_task
from redis.asyncio import Redis

from worker.aio.mapping import current_item
from worker.clients.session import runtime
from worker.clients.sync import wait_for
from worker.jobs.job_run import current_run
from worker.redis.retry import retry_while_down

ResultT = TypeVar("ResultT")

_MOST_BYTES: Final = 1_000_000
_LOCKS: WeakValueDictionary[tuple[asyncio.AbstractEventLoop, str], asyncio.Lock] = (
    WeakValueDictionary()
)
"""Locks that are held while a step runs, so that concurrent calls of the step run it once."""
_THREAD_LOCKS: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()
"""Such locks for the steps of plain functions."""
_GUARD: Final = threading.Lock()


async def once(step: str, make: Callable[[], Awaitable[ResultT]]) -> ResultT:
    """Run a step of a job, or return the step's result from an earlier run of the same job.

    A job that is deferred at its third call does not pay for the first two again. Redis keeps the
    result for `KEYWHEEL_DEADLINE_S` and one more day. Outside a job the step runs each time.
    Concurrent calls of a step run it once, so a step must not call itself.

    Args:
        step: The name of the step, unique in the task.
        make: Runs the step.

    Returns:
        The result of `make` after a conversion to JSON and back: a tuple becomes a list.

    Raises:
        TypeError: The result is not JSON, or larger than 1 MB; the step has run.
        Deferred: Redis did not answer for a minute.
    """
    record = await _record_of(step)
    if record is None:
        return await make()
    lock_key = (asyncio.get_running_loop(), record.name)
    lock = _LOCKS.get(lock_key)
    if lock is None:
        _LOCKS[lock_key] = lock = asyncio.Lock()
    async with lock:
        kept = await record.get()
        text = record.text_of(await make()) if kept is None else kept
        if kept is None:
            await record.set(text)
    result: ResultT = _result_of(step, text)
    return result


def once_sync(step: str, make: Callable[[], ResultT]) -> ResultT:
    """Like `once`, for plain functions.

    Args:
        step: As for `once`.
        make: A plain function that runs the step, in the caller's thread.

    Returns:
        As for `once`.

    Raises:
        TypeError: As for `once`.
        Deferred: As for `once`.
    """
    record = wait_for(_record_of(step))
    if record is None:
        return make()
    with _GUARD:
        lock = _THREAD_LOCKS.get(record.name)
        if lock is None:
            _THREAD_LOCKS[record.name] = lock = threading.Lock()
    with lock:
        kept = wait_for(record.get())
        text = record.text_of(make()) if kept is None else kept
        if kept is None:
            wait_for(record.set(text))
    result: ResultT = _result_of(step, text)
    return result


def _result_of(step: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ValueError(
            f"once: the result of step {step!r} in Redis is not JSON: another program wrote it. "
            "The step has run, and does not run again"
        ) from exc


@dataclass(frozen=True, slots=True)
class _Record:
    """The record in Redis with the result of a step."""

    redis: Redis
    name: str
    step: str
    expires_s: int

    async def get(self) -> str | None:
        """Read the result, as JSON; None if the step has not completed."""
        found: str | None = await retry_while_down(self._get)
        return found

    async def set(self, text: str) -> None:
        """Keep the result."""
        await retry_while_down(lambda: self._set(text))

    def text_of(self, result: Any) -> str:
        """Write the result as JSON.

        Raises:
            TypeError: The result is not JSON, or it is too large.
        """
        try:
            text = json.dumps(result, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as exc:
            raise TypeError(f"once: the result of step {self.step!r} is not JSON ({exc})") from None
        if len(text) > _MOST_BYTES:
            raise TypeError(
                f"once: the result of step {self.step!r} is larger than {_MOST_BYTES:,} bytes of "
                "JSON: return less from the step"
            )
        return text

    async def _get(self) -> Any:
        return await self.redis.get(self.name)

    async def _set(self, text: str) -> None:
        await self.redis.set(self.name, text, ex=self.expires_s)


async def _record_of(step: str) -> _Record | None:
    """Return the record of a step of the current job; None outside a job."""
    run = current_run.get()  # of the whole job: its task may call another task directly
    job = run.job if run else (current_task.request.id if current_task else None)
    if not job:
        return None
    if (item := current_item.get()) is not None:  # the task runs once for each of several items
        job = f"{job}:{item}"
    shared = await runtime()
    name = f"{shared.settings.namespace}:step:{job}:{step}"
    return _Record(shared.redis, name, step, round(shared.settings.deadline_s) + 86_400)
