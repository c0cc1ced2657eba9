"""How a client waits for results: it listens from then on, and misses nothing that came before."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery

from sandbox.redis import EmbeddedRedis


@pytest.fixture
def app(aio_redis: EmbeddedRedis) -> Iterator[Celery]:
    url = aio_redis.url
    app = Celery(
        "w",
        broker="memory://",
        backend=f"worker.aio.backend:RedisBackend+{url}",
        set_as_current=False,
    )
    yield app
    app.close()


def _store(store: "redis.Redis", task_id: str, value: Any, *, tell: bool) -> None:
    meta = {
        "status": "SUCCESS",
        "result": value,
        "traceback": None,
        "children": [],
        "task_id": task_id,
    }
    store.set(f"celery-task-meta-{task_id}", json.dumps(meta))
    if tell:
        store.publish(f"celery-task-meta-{task_id}", json.dumps(meta))


def _listeners(store: "redis.Redis", task_id: str) -> int:
    ((_, listening),) = store.pubsub_numsub(f"celery-task-meta-{task_id}")
    return int(listening)


def test_a_job_that_is_only_sent_is_not_listened_for(app: Celery, store: "redis.Redis") -> None:
    result = app.send_task("any")
    assert _listeners(store, result.id) == 0


def test_a_result_that_is_there_or_comes_is_given(app: Celery, store: "redis.Redis") -> None:
    there, coming = (app.AsyncResult(str(uuid.uuid4())) for _ in range(2))
    _store(store, there.id, "there", tell=False)
    assert there.get(timeout=20) == "there"
    heard: list[Any] = []
    assert (
        coming.get(
            timeout=20,
            on_interval=lambda: heard or heard.append(_store(store, coming.id, 1, tell=True)),
        )
        == 1
    )


def test_a_result_between_the_look_and_the_listening_is_seen(
    app: Celery, store: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    result = app.AsyncResult(str(uuid.uuid4()))
    consumer = app.backend.result_consumer
    look = consumer.on_wait_for_pending

    def look_too_early(*args: Any, **kwargs: Any) -> None:
        look(*args, **kwargs)
        _store(
            store, result.id, "missed", tell=False
        )  # its publish came before the server knew of us

    monkeypatch.setattr(consumer, "on_wait_for_pending", look_too_early)
    assert result.get(timeout=20) == "missed"
    assert _listeners(store, result.id) == 0
