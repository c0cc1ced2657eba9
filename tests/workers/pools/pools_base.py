"""The Celery app of the pools' tasks: its settings, its journal, and how a task is made.

`POOL_TASKS` names the kind of the tasks: "async", or "plain" for pools that run no other kind.
"""

import asyncio
import functools
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any

import redis
from celery import Celery

URL = os.environ["POOL_REDIS_URL"]
ASYNC = os.environ["POOL_TASKS"] == "async"
OURS = os.environ.get("POOL_TRANSPORT") == "ours"

app = Celery("pools", broker=URL, backend=f"worker.aio.backend:RedisBackend+{URL}" if OURS else URL)
app.conf.update(
    worker_concurrency=4,
    worker_prefetch_multiplier=2,
    task_acks_late=True,
    worker_send_task_events=True,
    worker_pool_restarts=True,
    broker_connection_retry_on_startup=True,
    task_default_queue="pools",
    worker_aio_lost_pause_s=0.1,
)
if pool := os.environ.get("POOL_CLASS"):
    app.conf.worker_pool = pool
if OURS:
    app.conf.broker_transport = "worker.aio.transport:Transport"

store = redis.Redis.from_url(URL)

Body = Callable[..., Coroutine[Any, Any, Any]]


def note(key: str, entry: object) -> None:
    store.rpush(f"journal:{key}", str(entry))


async def pause(seconds: float) -> None:
    """Wait; no other function of the jobs waits."""
    if ASYNC:
        await asyncio.sleep(seconds)
    else:
        time.sleep(seconds)  # noqa: ASYNC251 - in a plain task


def task(**options: Any) -> Callable[[Body], Any]:
    """Make a task of a body: as it is, or as a plain function."""

    def decorate(body: Body) -> Any:
        @functools.wraps(body)
        def plain(*args: Any, **kwargs: Any) -> Any:
            try:
                body(*args, **kwargs).send(None)
            except StopIteration as done:
                return done.value

        return app.task(shared=False, **options)(body if ASYNC else plain)

    return decorate
