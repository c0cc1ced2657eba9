"""The asynchronous result backend compared with the stock one: same keys, same format."""

import json
import uuid
from concurrent.futures import Future
from typing import Any

import pytest
import redis
from celery import Celery, states
from celery.app.trace import trace_task_ret

from tests.integration.aio.backend_jobs import Run, TaskIn, meta_of
from worker.aio.backend import RedisBackend
from worker.aio.once import apply_once
from worker.aio.pool import TaskPool


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # by the stock backend
def test_key_format_expiry_and_publish_are_celerys_own(
    app: Celery, run: Run, store: "redis.Redis"
) -> None:
    task_id = str(uuid.uuid4())
    listener = store.pubsub(ignore_subscribe_messages=True)
    listener.subscribe(f"celery-task-meta-{task_id}")
    assert listener.get_message(timeout=5) is None  # the confirmation
    run({"a": [1]}, task_id=task_id)[1].result(10)
    ours = meta_of(store, task_id)
    stock_id = str(uuid.uuid4())
    app.backend.store_result(stock_id, {"a": [1]}, "SUCCESS")  # outside a job: the stock path
    stock = meta_of(store, stock_id)
    assert ours.pop("parent_id") == "p"
    assert ours.pop("group_id") == "g"
    assert ours.pop("children") == []
    assert stock.pop("children") is None
    for meta in (ours, stock):
        del meta["task_id"], meta["date_done"]
    assert ours == stock
    life = store.ttl(f"celery-task-meta-{task_id}")
    assert abs(life - store.ttl(f"celery-task-meta-{stock_id}")) <= 2
    states = []
    while message := listener.get_message(timeout=1):
        states.append(json.loads(message["data"])["status"])
    assert states == ["STARTED", "SUCCESS"]
    listener.close()


def test_a_stored_success_is_never_overwritten_and_anything_else_is(
    run: Run, store: "redis.Redis"
) -> None:
    task_id, done = run("first")
    done.result(10)
    run("fail now", task_id=task_id)[1].result(10)
    assert (meta_of(store, task_id)["status"], meta_of(store, task_id)["result"]) == (
        "SUCCESS",
        "first",
    )
    task_id, done = run("fail first")
    done.result(10)
    run("second", task_id=task_id)[1].result(10)
    assert meta_of(store, task_id)["status"] == "SUCCESS"
    task_id, done = run(5, "PROGRESS")
    assert done.result(10)[0] == 0
    assert meta_of(store, task_id)["result"] == 5


def test_an_end_that_comes_while_a_later_state_is_stored_stays(
    app: Celery, run: Run, store: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = str(uuid.uuid4())
    key = f"celery-task-meta-{task_id}"
    store.set(key, json.dumps({"status": "RETRY", "result": None}))
    decode, ends = type(app.backend).decode, iter(["SUCCESS"])

    def decode_late(self: Any, payload: Any) -> Any:
        # Another worker stores this between our read and our write.
        if end := next(ends, None):
            store.set(key, json.dumps({"status": end, "result": "of another run"}))
        return decode(self, payload)

    monkeypatch.setattr(
        type(app.backend), "decode", decode_late
    )  # each thread has a backend of its own
    run("first", task_id=task_id)[1].result(10)
    assert (meta_of(store, task_id)["status"], meta_of(store, task_id)["result"]) == (
        "SUCCESS",
        "of another run",
    )


@pytest.mark.parametrize("stored", ["by another program", "[]", '{"status": ["SUCCESS"]}', "{}"])
def test_an_end_replaces_an_unreadable_record(run: Run, store: "redis.Redis", stored: str) -> None:
    task_id = str(uuid.uuid4())
    store.set(f"celery-task-meta-{task_id}", stored)
    run("value", task_id=task_id)[1].result(10)
    assert meta_of(store, task_id)["result"] == "value"


def test_a_job_in_progress_does_not_take_back_an_end(run: Run, store: "redis.Redis") -> None:
    task_id, done = run("fail first")
    done.result(10)
    listener = store.pubsub(ignore_subscribe_messages=True)
    listener.subscribe(f"celery-task-meta-{task_id}")
    assert listener.get_message(timeout=5) is None  # the confirmation
    run("second", task_id=task_id)[1].result(10)
    message = listener.get_message(timeout=5)
    assert message is not None
    assert json.loads(message["data"])["status"] == "SUCCESS"  # STARTED was not published
    listener.close()


def test_results_may_live_for_ever(app: Celery, run: Run, store: "redis.Redis") -> None:
    app.conf.result_expires = 0
    with TaskIn(app) as again:
        task_id, done = again("kept")
        done.result(10)
    assert store.ttl(f"celery-task-meta-{task_id}") == -1


@pytest.mark.filterwarnings("ignore:Exception raised outside body")  # by the tracer, which says so
def test_a_result_too_large_fails_the_job(
    run: Run, monkeypatch: pytest.MonkeyPatch, store: "redis.Redis"
) -> None:
    run("warm up")[1].result(10)
    monkeypatch.setattr(RedisBackend, "_MAX_STR_VALUE_SIZE", 50_000)
    task_id, done = run("x" * 60_000)
    assert done.result(10)[0] == 1
    assert meta_of(store, task_id)["result"]["exc_type"] == "BackendStoreError"


def test_other_reads_and_writes_of_a_job_are_awaited_too(
    app: Celery, run: Run, store: "redis.Redis"
) -> None:
    @app.task(shared=False, name="reads")
    async def reads() -> list[Any]:
        kept = app.backend
        kept.set("plain-key", "value")
        kept.incr("count-key")
        return [value.decode() for value in kept.mget(["plain-key", "count-key"])] + [
            kept.get("none")
        ]

    pool = TaskPool(1, app=app)
    pool.start()
    done: Future[Any] = Future()
    request = {"id": "reads-id", "task": "reads", "delivery_info": {}}
    pool.apply_async(
        trace_task_ret,
        ("reads", "reads-id", request, ((), {}, {}), None, None),
        callback=done.set_result,
    )
    assert done.result(10)[0] == 0
    assert meta_of(store, "reads-id")["result"] == ["value", "1", None]
    assert store.ttl("plain-key") > 0
    pool.stop()


@pytest.mark.parametrize("state", [states.FAILURE, states.RETRY, states.REVOKED])
def test_the_texts_of_an_error_are_redacted_wherever_they_stand_and_those_of_a_result_are_not(
    app: Celery, state: str
) -> None:
    app.backend.redact = lambda text: text.replace("canary", "***")
    error = {"exc_type": "Odd", "exc_message": ["a canary", {"why": ("canary", 7, None)}]}
    meta = app.backend._get_result_meta(error, state, "line 1: canary", None)
    assert meta["result"] == {
        "exc_type": "Odd",
        "exc_message": ["a ***", {"why": ["***", 7, None]}],
    }
    assert meta["traceback"] == "line 1: ***"
    answer = {"text": ["canary"]}
    assert app.backend._get_result_meta(answer, states.SUCCESS, None, None)["result"] == answer


# Outside of jobs Celery stores the result.
@pytest.mark.filterwarnings("ignore:Call to deprecated setex")
@pytest.mark.parametrize(("within_s", "kept_s"), [(60, 60), (None, 86_400)])  # as long as results
def test_a_job_that_is_sent_once_again_is_remembered_from_then_on(
    app: Celery, store: "redis.Redis", within_s: int | None, kept_s: int
) -> None:
    task_id = str(uuid.uuid4())
    key = f"celery-task-meta-{task_id}.once"

    def send() -> None:
        apply_once(app.tasks["echo"].s(1), task_id=task_id, within_s=within_s)

    send()
    assert store.ttl(key) == pytest.approx(kept_s, abs=30)
    store.expire(key, 10)
    send()
    assert store.ttl(key) <= 10, "the message was not sent"
    app.backend.store_result(task_id, ValueError("no luck"), states.FAILURE)
    send()
    assert store.ttl(key) == pytest.approx(kept_s, abs=30)


def test_a_connection_class_without_an_async_twin_falls_back_to_threads(app: Celery) -> None:
    class Odd(redis.Connection):
        pass

    odd = RedisBackend(app=app, url="redis://127.0.0.1:1/0")
    assert odd.awaits_in_jobs
    odd.connparams["connection_class"] = Odd
    assert not odd.awaits_in_jobs


def test_a_state_that_a_child_task_reports_is_stored_without_holding_up_the_loop(run: Run) -> None:
    _, done = run("PROGRESS", task="reports")
    # It is not stored yet when the call returns.
    assert done.result(10)[1] == "['STARTED', 'PROGRESS']"
