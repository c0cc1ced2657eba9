"""The awaited result backend against the stock one: same keys, same format.

And a result store that goes away.
"""

import asyncio
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from celery import Celery, states
from celery.app.trace import trace_task_ret

from sandbox.redis import EmbeddedRedis
from tests.processes import eventually
from worker.aio import backend
from worker.aio.backend import RedisBackend
from worker.aio.once import apply_once
from worker.aio.pool import TaskPool

Run = Callable[..., Any]


@pytest.fixture
def app(aio_redis: EmbeddedRedis) -> Iterator[Celery]:
    url = aio_redis.url
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

    @app.task(shared=False, name="tells", bind=True, track_started=True)
    async def tells(self: Any, state: str) -> list[str]:
        """Changes its state in a child task; returns the states that are read there and later."""
        seen = []

        async def child() -> None:
            with redis.Redis.from_url(url) as client:
                key = self.backend.get_key_for_task(self.request.id)
                self.update_state(state=state, meta={"at": 1})
                seen.append(json.loads(client.get(key))["status"])
                while (now := json.loads(client.get(key))["status"]) == seen[0]:  # noqa: ASYNC110 - the server tells nobody
                    await asyncio.sleep(0)
                seen.append(now)

        await asyncio.create_task(child())
        return seen

    yield app
    app.close()


@pytest.fixture
def run(app: Celery) -> Iterator[Run]:
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


def _meta(store: "redis.Redis", task_id: str) -> dict[str, Any]:
    meta: dict[str, Any] = json.loads(store.get(f"celery-task-meta-{task_id}") or "null")
    return meta


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # by the stock backend
def test_key_format_expiry_and_publish_are_celerys_own(
    app: Celery, run: Run, store: "redis.Redis"
) -> None:
    task_id = str(uuid.uuid4())
    listener = store.pubsub(ignore_subscribe_messages=True)
    listener.subscribe(f"celery-task-meta-{task_id}")
    assert listener.get_message(timeout=5) is None  # the confirmation
    run({"a": [1]}, task_id=task_id)[1].result(10)
    ours = _meta(store, task_id)
    stock_id = str(uuid.uuid4())
    app.backend.store_result(stock_id, {"a": [1]}, "SUCCESS")  # outside a job: the stock path
    stock = _meta(store, stock_id)
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
    assert (_meta(store, task_id)["status"], _meta(store, task_id)["result"]) == (
        "SUCCESS",
        "first",
    )
    task_id, done = run("fail first")
    done.result(10)
    run("second", task_id=task_id)[1].result(10)
    assert _meta(store, task_id)["status"] == "SUCCESS"
    task_id, done = run(5, "PROGRESS")
    assert done.result(10)[0] == 0
    assert _meta(store, task_id)["result"] == 5


def test_an_end_that_comes_while_a_later_state_is_stored_stays(
    app: Celery, run: Run, store: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = str(uuid.uuid4())
    key = f"celery-task-meta-{task_id}"
    store.set(key, json.dumps({"status": "RETRY", "result": None}))
    decode, ends = type(app.backend).decode, iter(["SUCCESS"])

    def decode_late(self: Any, payload: Any) -> Any:
        # What another worker stores between our look and our write.
        if end := next(ends, None):
            store.set(key, json.dumps({"status": end, "result": "of another run"}))
        return decode(self, payload)

    monkeypatch.setattr(
        type(app.backend), "decode", decode_late
    )  # each thread has a backend of its own
    run("first", task_id=task_id)[1].result(10)
    assert (_meta(store, task_id)["status"], _meta(store, task_id)["result"]) == (
        "SUCCESS",
        "of another run",
    )


@pytest.mark.parametrize("stored", ["by another program", "[]", '{"status": ["SUCCESS"]}', "{}"])
def test_an_end_replaces_what_nobody_can_read(run: Run, store: "redis.Redis", stored: str) -> None:
    task_id = str(uuid.uuid4())
    store.set(f"celery-task-meta-{task_id}", stored)
    run("value", task_id=task_id)[1].result(10)
    assert _meta(store, task_id)["result"] == "value"


def test_a_job_under_way_does_not_take_back_an_end(run: Run, store: "redis.Redis") -> None:
    task_id, done = run("fail first")
    done.result(10)
    listener = store.pubsub(ignore_subscribe_messages=True)
    listener.subscribe(f"celery-task-meta-{task_id}")
    assert listener.get_message(timeout=5) is None  # the confirmation
    run("second", task_id=task_id)[1].result(10)
    message = listener.get_message(timeout=5)
    assert message is not None
    assert json.loads(message["data"])["status"] == "SUCCESS"  # STARTED was not told
    listener.close()


def test_results_may_live_for_ever(app: Celery, run: Run, store: "redis.Redis") -> None:
    app.conf.result_expires = 0
    with TaskIn(app) as again:
        task_id, done = again("kept")
        done.result(10)
    assert store.ttl(f"celery-task-meta-{task_id}") == -1


class TaskIn:
    """A second pool of the app, whose backend is made with the settings of now."""

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


@pytest.mark.filterwarnings("ignore:Exception raised outside body")  # by the tracer, which says so
def test_a_result_too_large_fails_the_job(
    run: Run, monkeypatch: pytest.MonkeyPatch, store: "redis.Redis"
) -> None:
    run("warm up")[1].result(10)
    monkeypatch.setattr(RedisBackend, "_MAX_STR_VALUE_SIZE", 50_000)
    task_id, done = run("x" * 60_000)
    assert done.result(10)[0] == 1
    assert _meta(store, task_id)["result"]["exc_type"] == "BackendStoreError"


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
    assert _meta(store, "reads-id")["result"] == ["value", "1", None]
    assert store.ttl("plain-key") > 0
    pool.stop()


def test_a_result_store_that_is_away_for_a_moment_loses_nothing(
    app: Celery,
    run: Run,
    aio_redis: EmbeddedRedis,
    store: "redis.Redis",
    caplog: pytest.LogCaptureFixture,
) -> None:
    run("warm up")[1].result(10)
    aio_redis.stop()
    jobs = [run(n) for n in range(20)]
    eventually(lambda: "cannot reach the result store" in caplog.text)
    assert not any(done.done() for _, done in jobs)
    aio_redis.start()
    for number, (task_id, done) in enumerate(jobs):
        assert done.result(15)[0] == 0
        assert eventually(lambda task_id=task_id: _meta(store, task_id))["result"] == number


def test_who_only_reads_gives_up_when_the_tries_of_the_policy_are_over(
    app: Celery, aio_redis: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = list[str]()
    monkeypatch.setattr(backend, "warn", lambda words, *about: told.append(words % about))
    pauses = {"interval_start": 0.01, "interval_step": 0.02, "interval_max": 0.04}
    app.conf.result_backend_transport_options = {"retry_policy": {"max_retries": 3, **pauses}}
    with _away(aio_redis), pytest.raises(redis.ConnectionError):
        asyncio.run(asyncio.wait_for(app.backend.run(("GET", "key")), 20))
    assert [line.split("; ")[-1] for line in told] == [
        "try 1 of 3 in 0.01 s",
        "try 2 of 3 in 0.03 s",
        "try 3 of 3 in 0.04 s",
    ]


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


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # outside of jobs it is Celery's
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
    assert store.ttl(key) <= 10, "it was not sent"
    app.backend.store_result(task_id, ValueError("no luck"), states.FAILURE)
    send()
    assert store.ttl(key) == pytest.approx(kept_s, abs=30)


@contextmanager
def _full(server: EmbeddedRedis) -> Iterator[None]:
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", "1")
        yield
        client.config_set("maxmemory", "0")


@contextmanager
def _away(server: EmbeddedRedis) -> Iterator[None]:
    server.stop()
    yield
    server.start()


async def _quick(value: str) -> str:
    return value


def _quick_plain(value: str) -> str:
    return value


@pytest.mark.parametrize("body", [_quick, _quick_plain])
@pytest.mark.parametrize(
    ("trouble", "words"),
    [(_full, "the result store takes nothing"), (_away, "cannot reach the result store")],
)
def test_a_job_that_is_done_is_not_cut_while_the_result_store_takes_nothing(  # noqa: PLR0917 - fixtures
    app: Celery,
    aio_redis: EmbeddedRedis,
    store: "redis.Redis",
    caplog: pytest.LogCaptureFixture,
    trouble: Callable[[EmbeddedRedis], Any],
    words: str,
    body: Callable[[str], Any],
) -> None:
    app.conf.result_backend_transport_options = {
        "retry_policy": {"max_retries": 2, "interval_step": 0.1, "interval_max": 0.2}
    }
    limits: list[bool] = []
    app.task(body, shared=False, name="quick")
    with TaskIn(
        app, "quick", (), timeout=0.3, timeout_callback=lambda soft, _: limits.append(soft)
    ) as again:
        with trouble(aio_redis):
            task_id, done = again("kept")
            eventually(lambda: words in caplog.text)
            began_s = time.monotonic()
            eventually(
                lambda: time.monotonic() > began_s + 2
            )  # it is the length that is tested: seven limits, ten tries
            assert not done.done()
        assert done.result(15)[0] == 0
    assert _meta(store, task_id)["result"] == "kept"
    assert limits == []


def test_a_result_waits_until_the_right_that_a_script_lacks_is_granted(
    app: Celery, store: "redis.Redis"
) -> None:
    app.task(_quick, shared=False, name="quick")
    with TaskIn(app, "quick", ()) as again:
        store.acl_log_reset()
        store.execute_command("ACL", "SETUSER", "default", "-set")
        try:
            task_id, done = again("kept")
            eventually(store.acl_log)
            assert not done.done()
        finally:
            store.execute_command("ACL", "SETUSER", "default", "+@all")
        assert done.result(10)[0] == 0
    assert _meta(store, task_id)["result"] == "kept"


def test_a_job_begins_though_it_cannot_be_stored_that_it_runs(
    app: Celery, store: "redis.Redis", caplog: pytest.LogCaptureFixture
) -> None:
    begun = threading.Event()

    async def begins(value: str) -> str:
        begun.set()
        return value

    app.task(begins, shared=False, name="begins", track_started=True)
    with TaskIn(app, "begins", ()) as again:
        store.execute_command("ACL", "SETUSER", "default", "-set")
        try:
            task_id, done = again("kept")
            assert begun.wait(10)
        finally:
            store.execute_command("ACL", "SETUSER", "default", "+@all")
        assert done.result(10)[0] == 0
    assert _meta(store, task_id)["result"] == "kept"
    assert "cannot store that a job runs (" in caplog.text


def test_a_connection_class_without_an_async_twin_falls_back_to_threads(app: Celery) -> None:
    class Odd(redis.Connection):
        pass

    odd = RedisBackend(app=app, url="redis://127.0.0.1:1/0")
    assert odd.awaits_in_jobs
    odd.connparams["connection_class"] = Odd
    assert not odd.awaits_in_jobs


def test_a_state_that_a_child_task_tells_is_stored_without_holding_up_the_loop(run: Run) -> None:
    _, done = run("PROGRESS", task="tells")
    assert done.result(10)[1] == "['STARTED', 'PROGRESS']"  # not there yet when the call returned
