"""The tasks with which each pool has to keep its promises.

The jobs write what they see to a journal in Redis.
"""

import threading
import time
from typing import Any

from celery import chord, current_task, group, signals
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from celery.result import allow_join_result
from kombu import Connection

from tests.workers.pools.pools_base import URL, app, note, pause, store, task


@task()
async def add(x: int, y: int = 1) -> int:
    await pause(0)
    return x + y


@signals.worker_process_init.connect
def _prepare(**_: Any) -> None:
    prepared.append(True)


prepared: list[bool] = []


@task()
async def finds_prepared() -> int:
    return len(prepared)


@task()
async def total(numbers: list[int]) -> int:
    return sum(numbers)


@task()
async def fails(text: str) -> None:
    await pause(0)
    raise ValueError(text)  # the task's own line


@task()
async def waits(key: str, seconds: float) -> str:
    note(key, "began")
    await pause(seconds)
    note(key, "ended")
    return "waited"


@task(acks_late=False)
async def waits_early(key: str, seconds: float) -> None:
    note(key, "began")
    await pause(seconds)


@task(bind=True)
async def who(self: Any, seconds: float) -> list[str]:
    ids = [self.request.id, current_task.request.id]
    await pause(seconds)
    return [*ids, self.request.id, current_task.request.id]


@task()
async def rejects(key: str, again: bool) -> str:  # noqa: FBT001 - a task's argument
    if store.incr(f"count:{key}") == 1:
        raise Reject("not now", requeue=again)
    return "came back"


@task()
async def ignores(key: str) -> None:
    note(key, "ran")
    raise Ignore


@task(bind=True, max_retries=2)
async def retries(self: Any, key: str, successes: int) -> int:
    note(key, f"try {self.request.retries}")
    if self.request.retries < successes:
        raise self.retry(exc=ValueError("again"), countdown=0)
    return int(self.request.retries)


@task(bind=True, autoretry_for=(KeyError,), retry_kwargs={"max_retries": 3, "countdown": 0})
async def autoretries(self: Any) -> int:
    await pause(0)
    if self.request.retries < 2:
        raise KeyError("again")
    return int(self.request.retries)


class Hooked(app.Task):  # type: ignore[name-defined, misc]
    """A task that notes which of its hooks were called."""

    abstract = True

    def before_start(self, task_id: str, *_: Any) -> None:
        note(task_id, "before_start")

    def on_success(self, _: Any, task_id: str, *__: Any) -> None:
        note(task_id, "on_success")

    def on_failure(self, exc: Any, task_id: str, *_: Any) -> None:
        note(task_id, f"on_failure {type(exc).__name__}")

    def after_return(self, status: str, _: Any, task_id: str, *__: Any) -> None:
        note(task_id, f"after_return {status}")


@task(base=Hooked, bind=True)
async def hooked(self: Any, ending: str) -> str:
    note(self.request.id, "body")
    if ending == "fails":
        raise ValueError(ending)
    return ending


def _watch(name: str) -> None:
    def receiver(sender: Any = None, **_: Any) -> None:
        if getattr(sender, "name", "") == hooked.name:
            note(sender.request.id, name)

    getattr(signals, name).connect(receiver, weak=False)


for _name in ("task_prerun", "task_success", "task_failure", "task_postrun"):
    _watch(_name)


@task(soft_time_limit=0.3)
async def softly(catch: bool) -> str:  # noqa: FBT001 - a task's argument
    try:
        await pause(0.9)
    except SoftTimeLimitExceeded:
        if catch:
            return "caught"
        raise
    return "not limited"


@task(time_limit=0.4)
async def hardly() -> str:
    await pause(1.2)
    return "not limited"


@task(bind=True)
async def reports_progress(self: Any, key: str) -> None:
    self.update_state(state="PROGRESS", meta={"at": 1})
    while not store.exists(f"go:{key}"):
        await pause(0.02)


@task(track_started=True)
async def starts(key: str) -> None:
    while not store.exists(f"go:{key}"):
        await pause(0.02)


@task(ignore_result=True)
async def unanswered(key: str) -> str:
    note(key, "ran")
    return "nobody asks"


@task()
async def ends(key: str) -> None:
    note(key, "ran")
    raise SystemExit(3)


@task(reject_on_worker_lost=True)
async def ends_again(key: str, times: int) -> str:
    if store.incr(f"count:{key}") <= times:
        raise SystemExit(3)
    return "survived"


@task()
async def counts(key: str) -> int:
    now = int(store.incr(f"now:{key}"))
    await pause(0.3)
    store.decr(f"now:{key}")
    return now


@task(rate_limit="5/s")
async def limited(key: str) -> None:
    note(key, time.time())


@task(bind=True)
async def sends(self: Any, key: str) -> str:
    add.delay(1, 1)
    group(add.s(1, n) for n in range(2)).apply_async()
    chord([add.s(1, 1), add.s(2, 2)])(noted.s(key))
    return str(self.request.id)


@task()
async def noted(value: Any, key: str) -> None:
    note(key, value)


@task()
async def failed_with(request: Any, exc: Any, traceback: Any) -> None:
    note(f"errback:{request.id}", repr(exc))


@task(bind=True)
async def replaced(self: Any, x: int) -> Any:
    raise self.replace(add.s(x, 10))


@task()
async def joins(x: int) -> list[Any]:
    with allow_join_result():
        several = group(add.s(x, n) for n in range(2)).apply_async()
        return [add.delay(x, 1).get(timeout=60), *several.get(timeout=60)]


@task()
async def joins_when_signalled(key: str) -> int:
    """May wait for results from its start on, and waits when the test signals it."""
    with allow_join_result():
        note(key, "may")
        while not store.exists(f"go:{key}"):
            await pause(0.02)
        return int(add.delay(1, 1).get(timeout=60))


class UnpicklableError(Exception):
    """An error that holds a value that cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class ParticularError(Exception):
    """An error that cannot be made from its `args` alone, as unpickling does."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")


@task()
async def fails_oddly(kind: str) -> None:
    await pause(0)
    if kind == "unpicklable":
        raise UnpicklableError("odd")
    if kind == "particular":
        raise ParticularError(code=4)
    if kind == "several":
        raise ExceptionGroup("odd", [ValueError("a"), KeyError("b")])

    def deeper() -> None:
        deeper()

    deeper()


@task(bind=True)
async def asks(self: Any) -> bool:
    """Return whether its own worker reports it as running."""
    worker = app.control.inspect(destination=[self.request.hostname], timeout=5, limit=1)
    return any(
        job["id"] == self.request.id
        for _ in range(20)
        for jobs in (worker.active() or {}).values()
        for job in jobs
    )


class Stop(BaseException):
    """A `BaseException` that is not an `Exception`."""


@task()
async def stops() -> None:
    raise Stop("at once")


@task()
async def consumes(key: str) -> str:
    """Read from a queue of its own, over a connection of its own."""
    with Connection(URL, transport=app.conf.broker_transport) as connection:
        queue = connection.SimpleQueue(f"own-{key}")
        queue.put("a word")
        message = queue.get(timeout=5)
        message.ack()
        queue.close()
    return str(message.payload)
