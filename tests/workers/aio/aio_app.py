# ruff: noqa: ARG002, PLR0917
"""The Celery app that the pool's tests run in real worker processes.

The tasks write what they see to a journal in Redis.
"""

import asyncio
import threading
import time
from typing import Any

from celery import current_task, signals
from celery.exceptions import Ignore, Reject

from tests.workers.aio.aio_base import *  # noqa: F403 - tests find all tasks here
from tests.workers.aio.aio_base import app, note, store
from tests.workers.aio.aio_canvas import *  # noqa: F403
from tests.workers.aio.aio_endings import *  # noqa: F403
from worker.aio.adopt import Task


@app.task(shared=False, bind=True)
async def who(self: Any, pause_s: float) -> list[str | None]:
    """Return every id that the job sees of itself.

    It looks before and after awaits, in child tasks and in threads.
    """

    async def child() -> list[str]:
        await asyncio.sleep(pause_s)
        return [
            self.request.id,
            current_task.request.id,
            await asyncio.to_thread(lambda: current_task.request.id),
        ]

    ids = [self.request.id, current_task.request.id]
    for part in await asyncio.gather(child(), child()):
        ids += part
    ids += [self.request.id, current_task.request.id]
    return ids


@app.task(shared=False, bind=True)
async def deaths(self: Any, seconds: float, key: str) -> None:
    """Note how often a worker died of this job, or beside it."""
    note(
        key,
        f"began {(self.request.headers or {}).get('deaths', 0)} {self.request.get('deaths', 0)}",
    )
    await asyncio.sleep(seconds)
    note(key, "ended")


@app.task(shared=False)
async def unhurried() -> None:
    await asyncio.sleep(5)


class Hooked(app.Task):  # type: ignore[name-defined, misc]
    """A task with four async hooks and a plain one."""

    abstract = True

    async def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        await asyncio.sleep(0)
        note(f"{task_id}:{self.request.retries}", f"before_start {self.request.id == task_id}")

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        note(f"{task_id}:{self.request.retries}", "on_success")

    async def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        await asyncio.sleep(0)
        note(f"{task_id}:{self.request.retries}", f"on_failure {type(exc).__name__}")

    async def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        await asyncio.sleep(0)
        note(f"{task_id}:{self.request.retries}", "on_retry")

    async def after_return(
        self, status: Any, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        await asyncio.sleep(0)
        note(f"{task_id}:{self.request.retries}", f"after_return {status}")


@app.task(shared=False, base=Hooked, bind=True, max_retries=2)
async def hooked(self: Any, plan: str) -> str:
    await asyncio.sleep(0)
    note(f"{self.request.id}:{self.request.retries}", "body")
    if plan == "fail":
        raise ValueError(plan)
    if plan == "retry":
        raise self.retry(exc=ValueError(plan), countdown=0)
    return plan


class Light(Task, Hooked):
    """A task whose retries do not count as trouble."""

    abstract = True
    light_retry = True


@app.task(shared=False, base=Light, bind=True, max_retries=2)
async def light(self: Any, plan: str) -> str:
    await asyncio.sleep(0)
    note(f"{self.request.id}:{self.request.retries}", "body")
    if plan == "late":
        raise self.retry(
            exc=ValueError(plan), countdown=3600, queue="late"
        )  # a queue without a consumer
    raise self.retry(exc=ValueError(plan), countdown=0)


def _watch(signal: Any, name: str) -> None:
    def receiver(sender: Any = None, **_: Any) -> None:
        if getattr(sender, "name", "") in {"aio_app.hooked", "aio_app.light"}:
            note(f"{sender.request.id}:{sender.request.retries}", f"signal {name}")

    signal.connect(receiver, weak=False)


for _signal in ("task_prerun", "task_postrun", "task_success", "task_failure", "task_retry"):
    _watch(getattr(signals, _signal), _signal)


@app.task(
    shared=False,
    bind=True,
    autoretry_for=(KeyError,),
    retry_kwargs={"max_retries": 3, "countdown": 0},
)
async def autoretried(self: Any) -> int:
    await asyncio.sleep(0)
    if self.request.retries < 2:
        raise KeyError("again")
    return int(self.request.retries)


@app.task(shared=False, base=Hooked, bind=True, time_limit=0.3)
async def stubborn(self: Any) -> str:
    """Ignore two cancellations, then return a result that nobody reads any more."""
    swallowed = 0
    while swallowed < 2:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            swallowed += 1
            note(f"{self.request.id}:0", "swallowed")
    note(f"{self.request.id}:0", "gave in")
    return "too late"


@app.task(shared=False)
async def rejects(requeue: bool, key: str) -> str:  # noqa: FBT001
    if store.incr(f"count:{key}") == 1:
        raise Reject("not now", requeue=requeue)
    return "second time"


@app.task(shared=False)
async def ignores(key: str) -> None:
    note(key, "ran")
    raise Ignore


@app.task(shared=False)
async def failed_with(request: Any, exc: Any, traceback: Any) -> None:
    note(f"errback:{request.id}", repr(exc))


@app.task(shared=False)
def note_task(value: Any, key: str) -> None:
    note(key, value)


@app.task(shared=False, bind=True)
def plain(self: Any, pause_s: float) -> list[Any]:
    time.sleep(pause_s)
    return [
        self.request.id,
        current_task.request.id,
        threading.current_thread().name.rstrip("0123456789"),
    ]


@app.task(shared=False, bind=True)
def plain_mixed(self: Any) -> Any:
    """A plain function that returns a coroutine."""

    async def rest() -> list[str]:
        await asyncio.sleep(0)
        return [self.request.id, current_task.request.id]

    return rest()


@app.task(shared=False)
async def blocks() -> None:
    time.sleep(0.8)  # noqa: ASYNC251 - the misdeed under test


@app.task(shared=False)
def holds_thread(seconds: float, key: str) -> float:
    note(key, "began")
    time.sleep(seconds)
    return seconds


@app.task(shared=False)
def hangs(key: str) -> None:
    note(key, "began")
    time.sleep(120)


@app.task(shared=False)
async def hangs_loop(key: str) -> None:
    note(key, "began")
    time.sleep(120)  # noqa: ASYNC251 - the misdeed under test


@app.task(shared=False)
async def counted(key: str, pause_s: float) -> int:
    """Return how many of these jobs ran when this one began."""
    now = store.incr(f"now:{key}")
    store.rpush(f"seen:{key}", now)
    await asyncio.sleep(pause_s)
    store.decr(f"now:{key}")
    return int(now)


@app.task(shared=False)
async def hurried(key: str) -> None:
    """A task that gets a rate limit when the test sets one by remote control."""
    store.rpush(f"at:{key}", str(time.time()))


@app.task(shared=False, rate_limit="10/s")
async def limited(key: str) -> None:
    store.rpush(f"at:{key}", str(time.time()))
