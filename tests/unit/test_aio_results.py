"""Waiting for results: in a job without blocking, and by a client that subscribes late."""

from collections import deque
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
from celery import Celery, states
from celery.backends.redis import ResultConsumer as StockResultConsumer
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.result import AsyncResult, GroupResult

from worker.aio import result as result_module
from worker.aio.result import await_result
from worker.aio.result_consumer import ResultConsumer

FAILED = ValueError("no")


def _eight() -> int:
    return 8


class Store:
    """A result store whose answers for each job come in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.app = Celery("unit", backend="cache+memory://", set_as_current=False)
        self.metas: dict[str, list[dict[str, Any]]] = {}
        self.now_s, self.pauses_s = 1000.0, list[float]()
        self.app.backend.get_task_meta = self._meta
        monkeypatch.setattr("worker.aio.result.asyncio.sleep", self._sleep)
        monkeypatch.setattr(result_module, "time", SimpleNamespace(monotonic=lambda: self.now_s))

    def _meta(self, job: str, **_: Any) -> dict[str, Any]:
        answers = self.metas.get(job, [])
        return answers.pop(0) if answers else {"status": states.PENDING, "result": None}

    async def _sleep(self, after_s: float) -> None:
        self.now_s += after_s
        self.pauses_s.append(round(after_s, 4))

    def of(self, job: str, *metas: dict[str, Any], parent: Any = None) -> AsyncResult:
        self.metas[job] = list(metas)
        return AsyncResult(job, app=self.app, parent=parent)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    return Store(monkeypatch)


def meta(status: str, result: Any = None) -> dict[str, Any]:
    return {"status": status, "result": result, "traceback": None, "children": []}


PENDING, DONE, FAILURE = meta(states.PENDING), meta(states.SUCCESS, 7), meta(states.FAILURE, FAILED)


async def test_a_result_is_looked_for_after_pauses_that_grow(store: Store) -> None:
    assert await await_result(store.of("a", *[PENDING] * 10, DONE)) == 7
    assert store.pauses_s[:3] == [0.01, 0.015, 0.0225]
    assert store.pauses_s[-2:] == [0.25, 0.25]
    assert len(store.pauses_s) == 10


async def test_an_error_is_raised_unless_the_caller_wants_it(store: Store) -> None:
    with pytest.raises(ValueError, match=r"^no$"):
        await await_result(store.of("a", FAILURE))
    assert await await_result(store.of("a", FAILURE), propagate=False) is FAILED


async def test_waiting_for_a_result_that_does_not_come_ends_with_a_timeout(store: Store) -> None:
    with pytest.raises(CeleryTimeoutError, match=r"^no result of a in time$"):
        await await_result(store.of("a"), timeout_s=0.02)
    assert store.pauses_s == [0.01, 0.01]
    with pytest.raises(CeleryTimeoutError):
        await await_result(store.of("b"), timeout_s=0)


async def test_the_failure_of_an_earlier_task_is_that_of_its_chain(store: Store) -> None:
    first = store.of("first", PENDING, FAILURE)
    with pytest.raises(ValueError, match=r"^no$"):
        await await_result(store.of("last", parent=first))
    middle = store.of("middle", parent=store.of("first", FAILURE))
    with pytest.raises(ValueError, match=r"^no$"):
        await await_result(store.of("last", parent=middle), timeout_s=60)
    done = store.of("done", DONE)
    done.maybe_throw = Mock()
    assert await await_result(store.of("last", PENDING, PENDING, DONE, parent=done)) == 7
    done.maybe_throw.assert_called_once_with()  # it is not read again
    header = GroupResult("group", [store.of("part", FAILURE)], app=store.app)
    with pytest.raises(ValueError, match=r"^no$"):
        await await_result(store.of("body", parent=header))
    first = store.of("first", FAILURE)
    unasked = store.of("last", DONE, parent=first)
    assert await await_result(unasked, propagate=False) == 7


async def test_a_group_has_the_results_of_its_parts_and_none_if_they_are_ignored(
    store: Store,
) -> None:
    ignored = store.of("ignored")
    ignored.ignored = True
    group = GroupResult("group", [store.of("a", DONE), ignored], app=store.app)
    assert await await_result(group) == [7, None]
    eager = store.app.task(_eight, name="eager", shared=False).apply()
    assert await await_result(eager) == 8


class Subscribed:
    """A client's consumer of results, without a connection."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = Mock()
        self.consumer: Any = ResultConsumer.__new__(ResultConsumer)
        self.consumer._confirmed = deque()
        self.consumer._pubsub = SimpleNamespace(handle_message=self.calls.handle)
        self.consumer.backend = SimpleNamespace(client=SimpleNamespace(mget=self.calls.mget))
        self.consumer._decode_result = lambda text: {"status": text}
        self.consumer.on_state_change = self.calls.changed
        for name in ("_locked", "reconnect_on_error"):
            monkeypatch.setattr(
                ResultConsumer, name, contextmanager(lambda *_: iter([None])), raising=False
            )
        for name in ("start", "_reconnect_pubsub", "drain_events"):
            stock = getattr(self.calls, name)
            monkeypatch.setattr(
                StockResultConsumer, name, lambda _, *args, stock=stock, **kw: stock(*args, **kw)
            )


@pytest.mark.parametrize("kind", [b"subscribe", "subscribe"])
@pytest.mark.parametrize("by", ["start", "reconnect"])
def test_results_stored_before_the_subscription_are_read_once_it_is_confirmed(
    monkeypatch: pytest.MonkeyPatch, by: str, kind: Any
) -> None:
    client = Subscribed(monkeypatch)
    if by == "start":
        client.consumer.start("job", x=1)
        assert client.calls.start.call_args == call("job", x=1)
    else:
        client.consumer._reconnect_pubsub()
        client.calls._reconnect_pubsub.assert_called_once_with()
    handle = client.consumer._pubsub.handle_message
    for message in (
        [kind, "a", 1],
        [b"message", "x", b"text"],
        b"PONG",
        [kind, "b", 2],
        [kind, "c", 3],
    ):
        assert handle(message, ignore=True) is client.calls.handle.return_value
        assert client.calls.handle.call_args == call(message, ignore=True)
    client.calls.mget.return_value = [None, states.SUCCESS, states.STARTED]
    client.consumer.drain_events(3)
    assert client.calls.drain_events.call_args == call(3)
    assert client.calls.mget.call_args_list == [call(["a", "b", "c"])]
    assert client.calls.changed.call_args_list == [call({"status": states.SUCCESS}, None)]
    client.consumer.drain_events()
    client.consumer._read_stored()  # another thread was faster
    assert client.calls.mget.call_count == 1


def test_a_backends_consumer_is_set_up_as_celerys(store: Store) -> None:
    backend = Mock()
    consumer = ResultConsumer(backend, store.app, {"json"}, {}, {})
    assert (consumer.backend, consumer.app, consumer.accept) == (backend, store.app, {"json"})
    consumer._read_stored()
    backend.client.mget.assert_not_called()
