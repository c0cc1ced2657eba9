"""The result store: when and how long it waits for its server, and which methods Celery runs."""

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock, call

import pytest
import redis
from celery import states
from celery.backends.redis import RedisBackend as StockBackend

from worker.aio import backend as backend_module
from worker.aio import bridge, connections, redis_retry
from worker.aio.backend import RedisBackend, _Pauses
from worker.aio.result_consumer import ResultConsumer

POLICY = {"max_retries": 3, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.5}
AWAY, FULL = redis.ConnectionError("gone"), redis.OutOfMemoryError("OOM command not allowed")
DENIED = redis.exceptions.NoPermissionError("NOPERM this user has no permissions")
WRONG = redis.ResponseError("WRONGTYPE Operation against a key")


@pytest.fixture(autouse=True)
def _loud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_retry._LogLimit, "until_s", {})


def test_pauses_grow_and_a_server_that_is_down_is_tried_as_often_as_the_policy_says(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pauses = _Pauses(POLICY, endless=False)
    assert [round(pauses.next_s(AWAY), 3) for _ in range(3)] == [0, 0.2, 0.4]
    with pytest.raises(redis.ConnectionError) as raised:
        pauses.next_s(AWAY)
    assert raised.value is AWAY
    assert caplog.messages == ["cannot reach the result store (gone); try 1 of 3 in 0.0 s"]


@pytest.mark.parametrize("error", [AWAY, FULL, DENIED])
def test_a_job_that_is_done_waits_for_as_long_as_it_takes(
    caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    pauses = _Pauses(POLICY, endless=True)
    waits_s = [round(pauses.next_s(error), 3) for _ in range(9)]
    assert waits_s == [0, 0.2, 0.4, *[0.5] * 6]
    away = "cannot reach the result store (gone); try 1 in 0.0 s"
    nothing = (
        f"the result store rejects commands ({redis_retry.safe_message(error)}); next try in 0.0 s"
    )
    assert caplog.messages == [away if error is AWAY else nothing]


def test_a_refusal_does_not_count_as_a_try() -> None:
    pauses = _Pauses(POLICY, endless=False)
    for error in (FULL, DENIED) * 9:
        pauses.next_s(error)
    for _ in range(3):
        pauses.next_s(AWAY)
    with pytest.raises(redis.ConnectionError):
        pauses.next_s(AWAY)


class Store:
    """A backend in a job of the pool, whose server gives planned replies."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.backend: Any = RedisBackend.__new__(RedisBackend)
        self.backend.connparams, self.backend.expires = {}, 60
        self.backend.connection_errors = (redis.ConnectionError,)
        self.backend.retry_policy = POLICY
        self.job: Any = None
        self.pauses_s: list[float] = []
        self.held = Mock(return_value=Mock(__enter__=Mock(), __exit__=Mock(return_value=None)))
        self.bridged = True
        monkeypatch.setattr(backend_module, "_ended_job", lambda: self.job)
        monkeypatch.setattr(backend_module, "_job_of_thread", lambda: None)
        monkeypatch.setattr(backend_module, "HeldTimeLimits", self.held)
        monkeypatch.setattr(bridge, "is_bridged", lambda: self.bridged)
        monkeypatch.setattr("worker.aio.backend.asyncio.sleep", self._sleep)

    async def _sleep(self, after_s: float) -> None:
        self.pauses_s.append(round(after_s, 3))


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    return Store(monkeypatch)


# The server's reply, whether the job's body has ended, the pauses, and how it goes on.
@pytest.mark.parametrize(
    ("answers", "has_ended", "pauses_s", "ends"),
    [
        ([7], False, [], 7),
        ([AWAY, 7], False, [0], 7),
        ([AWAY] * 4, False, [0, 0.2, 0.4], AWAY),
        ([*[AWAY] * 4, 7], True, [0, 0.2, 0.4, 0.5], 7),
        ([FULL, FULL, FULL, FULL, 7], False, [0, 0.2, 0.4, 0.5], 7),
        ([DENIED], False, [], DENIED),
        ([DENIED, 7], True, [0], 7),
        ([WRONG], False, [], WRONG),
        ([WRONG], True, [], WRONG),
        ([ZeroDivisionError()], True, [], ZeroDivisionError()),
    ],
)
async def test_the_store_is_asked_until_it_answers_or_the_policy_ends(
    store: Store, answers: list[Any], pauses_s: list[float], ends: Any, *, has_ended: bool
) -> None:
    store.job = SimpleNamespace(redis_waits=False) if has_ended else None
    ask = AsyncMock(side_effect=answers)
    if isinstance(ends, Exception):
        with pytest.raises(type(ends)):
            await store.backend._until_reached(ask)
    else:
        assert await store.backend._until_reached(ask) == ends
    assert store.pauses_s == pauses_s
    assert ask.await_count == len(answers)
    # The time limits apply to the body of a job, not to storing its result.
    assert store.held.call_count == (len(pauses_s) if has_ended else 0)


async def test_time_limits_that_wait_already_are_not_held_twice(store: Store) -> None:
    store.job = SimpleNamespace(redis_waits=True)
    await store.backend._until_reached(AsyncMock(side_effect=[7]), error=AWAY)
    assert (store.pauses_s, store.held.call_count) == ([0], 0)


def test_values_are_written_and_published_at_once() -> None:
    published = ("PUBLISH", "key", "value")
    assert RedisBackend._writes("key", "value", 60) == (("SETEX", "key", 60, "value"), published)
    for for_ever in (None, 0):
        assert RedisBackend._writes("key", "value", for_ever) == (
            ("SET", "key", "value"),
            published,
        )


def test_in_a_job_values_are_awaited_and_elsewhere_celery_reads_them(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, stock = Mock(side_effect=lambda *commands: [commands]), Mock()
    monkeypatch.setattr(store.backend, "run", run, raising=False)
    monkeypatch.setattr(store.backend, "_check_size", size := Mock(), raising=False)
    monkeypatch.setattr(backend_module, "_wait", lambda answer: answer)
    for name in ("get", "mget", "set"):
        monkeypatch.setattr(StockBackend, name, getattr(stock, name))
    assert store.backend.get("key") == (("GET", "key"),)
    assert store.backend.mget(["a", "b"]) == (("MGET", "a", "b"),)
    published = ("PUBLISH", "key", "v")
    for expires, written in ((None, 60), (7, 7)):
        assert store.backend.set("key", "v", expires) == [
            (("SETEX", "key", written, "v"), published)
        ]
    assert store.backend.set("key", "v", 0) == [(("SET", "key", "v"), published)]
    assert size.call_args_list == [call("v")] * 3
    assert stock.mock_calls == []
    for name in ("elsewhere", "no twin"):
        store.bridged = name != "elsewhere"
        store.backend.connparams = {} if name == "elsewhere" else {"connection_class": object}
        stock.reset_mock()
        assert store.backend.get("key") is stock.get.return_value
        assert store.backend.mget(["a"]) is stock.mget.return_value
        assert store.backend.set("key", "v", expires=7, max_retries=1) is stock.set.return_value
        assert stock.mock_calls == [
            call.get("key"),
            call.mget(["a"]),
            call.set("key", "v", expires=7, max_retries=1),
        ]


@pytest.mark.parametrize(
    ("kind", "awaits"),
    [(None, True), (redis.Connection, True), (connections.BlockingTlsConnection, True),
     (object, False)],
)  # fmt: skip
def test_connections_that_have_a_twin_for_asyncio_are_awaited(
    store: Store, kind: Any, *, awaits: bool
) -> None:
    store.backend.connparams = {"connection_class": kind}
    assert store.backend.awaits_in_jobs is awaits
    assert RedisBackend.ResultConsumer is ResultConsumer


# The state to be stored, the error of the store, and whether the job gets the error.
@pytest.mark.parametrize(
    ("state", "error", "is_heard"),
    [
        (states.STARTED, AWAY, False),
        (states.STARTED, WRONG, False),
        (states.STARTED, ZeroDivisionError(), True),
        (states.SUCCESS, AWAY, True),
        (states.RETRY, WRONG, True),
    ],
)
def test_only_the_state_that_a_job_runs_may_stay_unstored(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    state: str,
    error: Exception,
    *,
    is_heard: bool,
) -> None:
    monkeypatch.setattr(store.backend, "_entry", lambda *_: ("key", "v", 60), raising=False)
    monkeypatch.setattr(store.backend, "_store", Mock(side_effect=error), raising=False)
    if is_heard:
        with pytest.raises(type(error)):
            store.backend._store_result("job", "result", state)
        return
    assert store.backend._store_result("job", "result", state) == "result"
    words = f"cannot store that a job runs ({redis_retry.safe_message(error)}); the job goes on"
    assert caplog.messages == [words]


async def test_a_value_gives_way_until_it_is_one_that_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = [[b"newer"], [b"end"], [None]]
    run = AsyncMock(side_effect=stored)
    monkeypatch.setattr(store.backend, "run", run, raising=False)
    monkeypatch.setattr(
        store.backend, "_is_replaceable", lambda stored, _: stored != b"end", raising=False
    )
    monkeypatch.setattr(backend_module, "replacement", lambda *entry: entry)
    await store.backend._replace(b"old", "key", "v", 60, states.RETRY)
    assert run.await_args_list == [call((old, "key", "v", 60)) for old in (b"old", b"newer")]
    run.side_effect = [[None]]
    await store.backend._replace(b"old", "key", "v", 60, states.SUCCESS)
    await store.backend._replace(None, "key", "v", 60, states.SUCCESS)
    assert run.await_count == 3


async def test_the_state_of_a_child_task_is_stored_beside_it_and_may_fail(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    replaced = AsyncMock()
    pipelining = Mock(**{"store.return_value": asyncio.get_running_loop().create_future()})
    pipelining.store.return_value.set_result(b"old")
    for name, value in (
        ("_entry", Mock(return_value=("key", "v", 60))),
        ("encode_result", lambda result, _: [result]),
        ("_pipelining", lambda: pipelining),
        ("_replace", replaced),
    ):
        monkeypatch.setattr(store.backend, name, value, raising=False)
    await store.backend._store_beside("job", "result", "PROGRESS", None, "request")
    assert store.backend._entry.call_args == call("job", ["result"], "PROGRESS", None, "request")
    assert pipelining.store.call_args == call("key", "v", 60)
    assert replaced.await_args == call(b"old", "key", "v", 60, "PROGRESS")
    replaced.side_effect = WRONG
    await store.backend._store_beside("job", "result", "PROGRESS", None, "request")
    assert caplog.messages == [f"cannot store the state PROGRESS of job ({WRONG}); the job goes on"]


def test_a_url_of_sentinels_is_read_by_ours() -> None:
    backend: Any = RedisBackend.__new__(RedisBackend)
    parameters = backend._params_from_url(
        "sentinel://h:1/3?master_name=main", {"socket_timeout": 9}
    )
    assert (parameters["socket_timeout"], parameters["db"]) == (9, 3)
    assert parameters["sentinels"].master_name == "main"
