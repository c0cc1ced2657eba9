"""How a client waits for results: it subscribes, and misses none that came before."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery
from celery.exceptions import TimeoutError as CeleryTimeoutError

from sandbox.redis import EmbeddedRedis
from worker.aio.result import await_result


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
    stored: list[Any] = []
    assert (
        coming.get(
            timeout=20,
            on_interval=lambda: stored or stored.append(_store(store, coming.id, 1, tell=True)),
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
        _store(store, result.id, "missed", tell=False)  # it was published before the subscription

    monkeypatch.setattr(consumer, "on_wait_for_pending", look_too_early)
    assert result.get(timeout=20) == "missed"
    assert _listeners(store, result.id) == 0


async def test_the_failure_of_an_earlier_task_of_a_chain_ends_the_wait_for_the_last(
    app: Celery, store: "redis.Redis"
) -> None:
    first, header, last = (app.AsyncResult(str(uuid.uuid4())) for _ in range(3))
    last.parent = app.GroupResult(str(uuid.uuid4()), [header])
    last.parent.parent = first
    _store(store, first.id, "there", tell=False)
    with pytest.raises(CeleryTimeoutError, match=f"no result of {last.id} in time"):
        await await_result(last, timeout_s=0)
    failed = {"exc_type": "ValueError", "exc_message": ["no luck"], "exc_module": "builtins"}
    meta = {"status": "FAILURE", "result": failed, "traceback": None, "children": []}
    store.set(f"celery-task-meta-{header.id}", json.dumps(meta | {"task_id": header.id}))
    with pytest.raises(ValueError, match="no luck"):
        await await_result(last, timeout_s=20)
    with pytest.raises(CeleryTimeoutError):
        await await_result(last, timeout_s=0, propagate=False)
    _store(store, last.id, "all the same", tell=False)
    assert await await_result(last, timeout_s=20, propagate=False) == "all the same"
