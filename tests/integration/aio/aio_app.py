# ruff: noqa: ARG002, PLR0917
"""The Celery app that the pool's tests run in real worker processes. All it learns it writes to a journal in Redis."""

import asyncio
import os
import threading
import time
from typing import Any

import redis
from celery import Celery, chord, current_task, group, signals
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded, TaskRevokedError
from celery.result import ResultSet
from celery.worker.request import Request

from worker.aio import lifespan
from worker.aio.adopt import Task
from worker.aio.result import await_result

URL = os.environ["AIO_REDIS_URL"]
BACKEND = os.environ.get("AIO_BACKEND", "worker.aio.backend:RedisBackend+")

app = Celery("aio_app", broker=URL, backend=BACKEND + URL)
app.conf.update(
    worker_pool="worker.aio.pool:TaskPool",
    worker_concurrency=100,
    worker_prefetch_multiplier=1,
    task_acks_late=True,
    worker_send_task_events=True,
    worker_pool_restarts=True,
    worker_hijack_root_logger=True,
    broker_connection_retry_on_startup=True,
    worker_cancel_long_running_tasks_on_connection_loss=bool(os.environ.get("AIO_CANCEL")),
    worker_soft_shutdown_timeout=float(os.environ.get("AIO_SOFT_S", "0")),
    worker_aio_loop=os.environ.get("AIO_LOOP", "auto"),
    worker_aio_cold_s=2,
    worker_aio_lost_pause_s=0.02,
    worker_aio_threads=int(os.environ["AIO_THREADS"]) if os.environ.get("AIO_THREADS") else None,
    worker_max_tasks_per_child=int(os.environ["AIO_RECYCLE"]) if os.environ.get("AIO_RECYCLE") else None,
    broker_transport_options={
        "visibility_timeout": 3600,
        "lease_s": float(os.environ.get("AIO_LEASE_S", "60")),
        "delayed_queues": ["late"],
    },
    broker_transport=os.environ.get("AIO_TRANSPORT", "worker.aio.transport:Transport"),
    task_default_queue=os.environ.get("AIO_QUEUE", "aio"),
)

store = redis.Redis.from_url(URL)


def note(key: str, what: object) -> None:
    store.rpush(f"journal:{key}", str(what))


@lifespan.on_startup
async def _background() -> None:
    note("lifespan", "started")
    try:
        await asyncio.Event().wait()
    finally:
        note("lifespan", "cancelled")


@lifespan.on_shutdown
async def _cleanup() -> None:
    note("lifespan", "cleaned")


@app.task(shared=False, bind=True)
async def who(self: Any, pause_s: float) -> list[str | None]:
    """Every id that the job can see of itself: before and after awaits, in child tasks, in threads."""

    async def child() -> list[str]:
        await asyncio.sleep(pause_s)
        return [self.request.id, current_task.request.id, await asyncio.to_thread(lambda: current_task.request.id)]

    seen = [self.request.id, current_task.request.id]
    for part in await asyncio.gather(child(), child()):
        seen += part
    seen += [self.request.id, current_task.request.id]
    return seen


@app.task(shared=False, bind=True)
async def deaths(self: Any, seconds: float, key: str) -> None:
    """Notes how often a worker died of, or with, this job."""
    note(key, f"began {(self.request.headers or {}).get('deaths', 0)} {self.request.get('deaths', 0)}")
    await asyncio.sleep(seconds)
    note(key, "ended")


@app.task(shared=False)
async def add(x: int, y: int) -> int:
    await asyncio.sleep(0)
    return x + y


@app.task(shared=False)
async def total(numbers: list[int]) -> int:
    return sum(numbers)


@app.task(shared=False)
async def sleep(seconds: float, key: str | None = None) -> float:
    if key:
        note(key, "began")
    await asyncio.sleep(seconds)
    if key:
        note(key, "ended")
    return seconds


@app.task(shared=False)
async def unhurried() -> None:
    await asyncio.sleep(5)


@app.task(shared=False)
async def boom(text: str = "boom") -> None:
    await asyncio.sleep(0)
    raise ValueError(text)  # the user's own line


class Hooked(app.Task):  # type: ignore[name-defined, misc]
    """Half of its hooks async, half plain."""

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

    async def after_return(self, status: Any, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        await asyncio.sleep(0)
        note(f"{task_id}:{self.request.retries}", f"after_return {status}")


class Tidy(app.Task):  # type: ignore[name-defined, misc]
    """Has more to do after its body than during it."""

    abstract = True

    async def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        await asyncio.sleep(3)
        note(task_id, "tidied up")


class Clumsy(app.Task):  # type: ignore[name-defined, misc]
    """Has a hook that is wrong."""

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
    """Its retries are no trouble."""

    abstract = True
    light_retry = True


@app.task(shared=False, base=Light, bind=True, max_retries=2)
async def light(self: Any, plan: str) -> str:
    await asyncio.sleep(0)
    note(f"{self.request.id}:{self.request.retries}", "body")
    if plan == "late":
        raise self.retry(exc=ValueError(plan), countdown=3600, queue="late")  # which nobody consumes
    raise self.retry(exc=ValueError(plan), countdown=0)


def _watch(signal: Any, name: str) -> None:
    def receiver(sender: Any = None, **_: Any) -> None:
        if getattr(sender, "name", "") in {"aio_app.hooked", "aio_app.light"}:
            note(f"{sender.request.id}:{sender.request.retries}", f"signal {name}")

    signal.connect(receiver, weak=False)


for _signal in ("task_prerun", "task_postrun", "task_success", "task_failure", "task_retry"):
    _watch(getattr(signals, _signal), _signal)


@app.task(shared=False, bind=True, autoretry_for=(KeyError,), retry_kwargs={"max_retries": 3, "countdown": 0})
async def autoretried(self: Any) -> int:
    await asyncio.sleep(0)
    if self.request.retries < 2:
        raise KeyError("again")
    return int(self.request.retries)


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
            async with asyncio.timeout(5):  # still works afterwards
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


@app.task(shared=False, base=Hooked, bind=True, time_limit=0.3)
async def stubborn(self: Any) -> str:
    """Swallows two cancellations, then gives a result that nobody wants any more."""
    swallowed = 0
    while swallowed < 2:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            swallowed += 1
            note(f"{self.request.id}:0", "swallowed")
    note(f"{self.request.id}:0", "gave in")
    return "too late"


async def _cut(key: str) -> str:
    if store.llen(f"journal:{key}"):
        note(key, "began again")
        return "done"
    note(key, "began")
    await asyncio.sleep(60)
    return "not reached"


class OwnRequest(Request):  # type: ignore[misc]
    """Of a kind of its own, as a project may bring one."""


@app.task(shared=False, time_limit=1)
async def cut(key: str) -> str:
    return await _cut(key)


@app.task(shared=False, time_limit=1, Request="aio_app:OwnRequest")
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
async def replaced(self: Any, x: int) -> Any:
    raise self.replace(group(add.s(x, 1), add.s(x, 2)) | total.s())


@app.task(shared=False, bind=True)
async def parent(self: Any) -> list[Any]:
    """Publishes and awaits from inside: a task, a group, a chord; as a coroutine and from a child task."""
    one = add.delay(1, 2)
    several = group(add.s(1, n) for n in range(3)).apply_async()
    whole = chord([add.s(n, n) for n in range(3)])(total.s())
    sent = await asyncio.gather(asyncio.to_thread(add.delay, 5, 5))
    self.update_state(state="PROGRESS", meta={"at": 1})
    return [
        await await_result(one, timeout_s=10),
        await await_result(several, timeout_s=10),
        await await_result(whole, timeout_s=10),
        await await_result(sent[0], timeout_s=10),
        [child.id for child in self.request.children][:1] == [one.id],
    ]


@app.task(shared=False)
async def spreads(n: int) -> int:
    """Sends a group of chords of chords."""
    inner = [chord([chord([add.s(n, 1), add.s(n, 2)], total.s()), add.s(n, 3)], total.s()) for _ in range(2)]
    return sum(await await_result(group(inner).apply_async(), timeout_s=40))


@app.task(shared=False, ignore_result=True)
async def unanswered() -> str:
    return "nobody asks"


@app.task(shared=False)
async def awaits_nothing() -> Any:
    return await await_result(unanswered.delay())


@app.task(shared=False)
async def awaits_revoked() -> str:
    """Waits for a chain and a chord, each of which has a link that is revoked before its time."""
    seen = []
    for whole in (add.s(1, 1).set(countdown=1) | add.s(1), chord([add.s(1, 1).set(countdown=1)], total.s())):
        result = await asyncio.to_thread(whole.apply_async)
        first = result.parent.results[0] if isinstance(result.parent, ResultSet) else result.parent
        await asyncio.to_thread(first.revoke)
        try:
            await await_result(result)
        except TaskRevokedError as exc:
            seen.append(f"{type(exc).__name__}")
    return " ".join(seen)


@app.task(shared=False, bind=True)
async def awaits_failure(self: Any) -> list[str]:
    failed = boom.delay("inner")
    seen = []
    try:
        await await_result(failed, timeout_s=10)
    except ValueError as exc:
        seen.append(str(exc))
    seen.append(type(await await_result(failed, propagate=False)).__name__)
    slow = sleep.delay(0.5)
    try:
        await await_result(slow, timeout_s=0.05)
    except Exception as exc:  # noqa: BLE001
        seen.append(type(exc).__name__)
    return seen


@app.task(shared=False, bind=True)
def plain(self: Any, pause_s: float) -> list[Any]:
    time.sleep(pause_s)
    return [self.request.id, current_task.request.id, threading.current_thread().name.rstrip("0123456789")]


@app.task(shared=False, bind=True, time_limit=0.3)
def plain_stuck(self: Any) -> str:
    time.sleep(1.0)
    return "too late"


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


@app.task(shared=False)
async def hangs_loop(key: str) -> None:
    note(key, "began")
    time.sleep(120)  # noqa: ASYNC251 - the misdeed under test


@app.task(shared=False)
async def counted(key: str, pause_s: float) -> int:
    """How many ran at most, as the jobs themselves saw it."""
    now = store.incr(f"now:{key}")
    store.rpush(f"seen:{key}", now)
    await asyncio.sleep(pause_s)
    store.decr(f"now:{key}")
    return int(now)


@app.task(shared=False)
async def hurried(key: str) -> None:
    """Has a limit once the worker is told of one."""
    store.rpush(f"at:{key}", str(time.time()))


@app.task(shared=False, rate_limit="10/s")
async def limited(key: str) -> None:
    store.rpush(f"at:{key}", str(time.time()))
