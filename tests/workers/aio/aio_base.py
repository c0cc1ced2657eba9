"""The pool's test app.

It has the settings, the journal that jobs write to, and the jobs that other jobs send.
"""

import asyncio
import os

import redis
from celery import Celery

from worker.aio import lifespan

URL = os.environ["AIO_REDIS_URL"]
BACKEND = os.environ.get("AIO_BACKEND", "worker.aio.backend:RedisBackend+")


class App(Celery):  # type: ignore[misc]
    """An app whose tasks have the same names in whichever file they are defined."""

    def gen_task_name(self, name: str, module: str) -> str:  # noqa: ARG002 - Celery's signature
        return f"aio_app.{name}"


app = App("aio_app", broker=URL, backend=BACKEND + URL)
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
    worker_max_tasks_per_child=int(os.environ["AIO_RECYCLE"])
    if os.environ.get("AIO_RECYCLE")
    else None,
    broker_transport_options={
        "visibility_timeout": 3600,
        "lease_s": float(os.environ.get("AIO_LEASE_S", "60")),
        "delayed_queues": ["late"],
    },
    broker_transport=os.environ.get("AIO_TRANSPORT", "worker.aio.transport:Transport"),
    task_default_queue=os.environ.get("AIO_QUEUE", "aio"),
)

JOURNAL = "journal"
store = redis.Redis.from_url(URL, client_name=JOURNAL)
"""The name of connections that tests do not cut, because a job would fail with its own error."""


def note(key: str, entry: object) -> None:
    store.rpush(f"journal:{key}", str(entry))


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
async def gated(key: str, gate: str, pause_s: float = 0) -> str:
    """End when the test has opened the gate, after a pause."""
    note(key, "began")
    while not store.exists(gate):  # noqa: ASYNC110 - the event is in Redis
        await asyncio.sleep(0.02)
    await asyncio.sleep(pause_s)
    note(key, "ended")
    return "ended"


@app.task(shared=False)
async def boom(text: str = "boom") -> None:
    await asyncio.sleep(0)
    raise ValueError(text)  # the user's own line
