# ruff: noqa: ARG002
"""Jobs that do not simply return.

They end at a limit, by a cancellation, with an error that would end a worker, or not at all.
"""

import asyncio
import threading
import time
from typing import Any

from celery.exceptions import SoftTimeLimitExceeded
from celery.worker.request import Request

from tests.workers.aio.aio_base import app, note, store


class Tidy(app.Task):  # type: ignore[name-defined, misc]
    """A task that does more after its body than in it."""

    abstract = True

    async def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        await asyncio.sleep(3)
        note(task_id, "tidied up")


class Clumsy(app.Task):  # type: ignore[name-defined, misc]
    """A task with a faulty hook."""

    abstract = True

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        raise KeyError("of a hook")


@app.task(shared=False, base=Clumsy, time_limit=0.5)
async def clumsy(key: str) -> None:
    note(key, "began")
    await asyncio.sleep(60)


@app.task(shared=False, base=Tidy, time_limit=2)
async def tidy() -> str:
    return "done"


@app.task(shared=False, soft_time_limit=0.3)
async def soft(plan: str, key: str) -> str:
    if plan == "catch":
        try:
            await asyncio.sleep(30)
        except SoftTimeLimitExceeded:
            return "caught"
    elif plan == "timeout inside":
        try:
            async with asyncio.timeout(30):
                await asyncio.sleep(30)
        except SoftTimeLimitExceeded:
            async with asyncio.timeout(5):  # timeouts still work afterwards
                await asyncio.sleep(0.01)
            return f"cancelling {asyncio.current_task().cancelling()}"  # type: ignore[union-attr]
    elif plan == "own timeout first":
        try:
            async with asyncio.timeout(0.05):
                await asyncio.sleep(30)
        except TimeoutError:
            return "own"
    elif plan == "task group":

        async def child() -> None:
            try:
                await asyncio.sleep(30)
            finally:
                note(key, "child cancelled")

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(child())
            tasks.create_task(child())
            await asyncio.sleep(30)
    await asyncio.sleep(30)
    return "not reached"


async def _cut(key: str) -> str:
    if store.llen(f"journal:{key}"):
        note(key, "began again")
        return "done"
    note(key, "began")
    await asyncio.sleep(60)
    return "not reached"


class OwnRequest(Request):  # type: ignore[misc]
    """A task with its own class of requests, as a project may have one."""


@app.task(shared=False, time_limit=1)
async def cut(key: str) -> str:
    return await _cut(key)


@app.task(shared=False, time_limit=1, Request="tests.workers.aio.aio_app:OwnRequest")
async def cut_privately(key: str) -> str:
    return await _cut(key)


@app.task(shared=False, bind=True)
async def cleaned(self: Any, key: str) -> None:
    note(key, "began")
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0)
        note(key, "finally")


@app.task(shared=False, acks_late=False)
async def acks_early(key: str) -> None:
    note(key, "began")
    try:
        await asyncio.sleep(60)
    finally:
        note(key, "finally")


@app.task(shared=False)
async def stray() -> None:
    await asyncio.sleep(0)
    raise asyncio.CancelledError


@app.task(shared=False, bind=True)
async def cancels_itself(self: Any) -> None:
    asyncio.current_task().cancel()  # type: ignore[union-attr]
    await asyncio.sleep(5)


ENDINGS: dict[str, type[BaseException]] = {
    "SystemExit": SystemExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "MemoryError": MemoryError,
    "GeneratorExit": GeneratorExit,
}


async def _end(ending: str) -> None:
    if ending == "child SystemExit":

        async def child() -> None:
            await asyncio.sleep(0)
            raise SystemExit(3)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(child())
            await asyncio.sleep(5)
    await asyncio.sleep(0)
    raise ENDINGS[ending]


@app.task(shared=False)
async def ends(ending: str) -> None:
    await _end(ending)


@app.task(shared=False)
def ends_plainly(ending: str) -> None:
    raise ENDINGS[ending]


@app.task(shared=False, reject_on_worker_lost=True)
def ends_plainly_once(ending: str, key: str) -> str:
    if store.incr(f"count:{key}") == 1:
        raise ENDINGS[ending]
    return "survived"


@app.task(shared=False, reject_on_worker_lost=True)
async def ends_once(ending: str, key: str) -> str:
    if store.incr(f"count:{key}") == 1:
        await _end(ending)
    return "survived"


@app.task(shared=False, reject_on_worker_lost=True)
async def ends_always(ending: str, key: str) -> None:
    store.incr(f"count:{key}")
    await _end(ending)


@app.task(shared=False, bind=True, time_limit=0.3)
def plain_stuck(self: Any) -> str:
    time.sleep(1.0)
    return "too late"


@app.task(shared=False, time_limit=0.5)
async def never_gives_in() -> None:
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            continue


@app.task(shared=False, time_limit=0.5)
def never_returns() -> None:
    threading.Event().wait()
