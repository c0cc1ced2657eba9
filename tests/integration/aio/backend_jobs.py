"""An app that stores results with the asynchronous backend, and its jobs."""

import asyncio
import json
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import redis
from celery import Celery
from celery.app.trace import trace_task_ret

from worker.aio.pool import TaskPool

Run = Callable[..., Any]


@contextmanager
def result_app(url: str) -> Iterator[Celery]:
    """An app with the tasks echo and reports, whose results are stored in this Redis."""
    app = Celery(
        "b",
        broker="memory://",
        backend=f"worker.aio.backend:RedisBackend+{url}",
        set_as_current=False,
    )
    app.conf.result_backend_transport_options = {
        "retry_policy": {"interval_step": 0.1, "interval_max": 0.2}
    }

    @app.task(shared=False, name="echo", bind=True, track_started=True)
    async def echo(self: Any, value: Any, state: str | None = None) -> Any:
        if state:
            self.update_state(state=state, meta={"at": value})
            assert self.AsyncResult(self.request.id).state == state
        if isinstance(value, str) and value.startswith("fail"):
            raise ValueError(value)
        return value

    @app.task(shared=False, name="reports", bind=True, track_started=True)
    async def reports(self: Any, state: str) -> list[str]:
        """Change the state in a child task; return the states that are read there and later."""
        seen = []

        async def child() -> None:
            with redis.Redis.from_url(url) as client:
                key = self.backend.get_key_for_task(self.request.id)
                self.update_state(state=state, meta={"at": 1})
                seen.append(json.loads(client.get(key))["status"])
                while (now := json.loads(client.get(key))["status"]) == seen[0]:  # noqa: ASYNC110 - the server sends no event
                    await asyncio.sleep(0)
                seen.append(now)

        await asyncio.create_task(child())
        return seen

    yield app
    app.close()


@contextmanager
def running(app: Celery) -> Iterator[Run]:
    """Start a pool of the app; yield a function that runs a job in it."""
    pool = TaskPool(8, app=app)
    pool.start()

    def run(
        value: Any, *more: Any, task_id: str | None = None, task: str = "echo"
    ) -> tuple[str, "Future[Any]"]:
        task_id = task_id or str(uuid.uuid4())
        done: Future[Any] = Future()
        request = {"id": task_id, "task": task, "delivery_info": {}, "parent_id": "p", "group": "g"}
        pool.apply_async(
            trace_task_ret,
            (task, task_id, request, ((value, *more), {}, {}), None, None),
            callback=done.set_result,
            error_callback=done.set_result,
        )
        return task_id, done

    yield run
    pool.terminate()


def meta_of(store: "redis.Redis", task_id: str) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads(store.get(f"celery-task-meta-{task_id}") or "null")
    return meta


class TaskIn:
    """A second pool of the app, whose backend is made with the present settings."""

    def __init__(
        self, app: Celery, name: str = "echo", more: tuple[Any, ...] = ("PROGRESS",), **options: Any
    ) -> None:
        self._pool = TaskPool(1, app=app)
        self._name = name
        self._more = more
        self._options = options

    def __enter__(self) -> Run:
        self._pool.start()

        def run(value: Any) -> tuple[str, "Future[Any]"]:
            task_id = str(uuid.uuid4())
            done: Future[Any] = Future()
            request = {"id": task_id, "task": self._name, "delivery_info": {}}
            self._pool.apply_async(
                trace_task_ret,
                (self._name, task_id, request, ((value, *self._more), {}, {}), None, None),
                callback=done.set_result,
                **self._options,
            )
            return task_id, done

        return run

    def __exit__(self, *_: object) -> None:
        self._pool.stop()
