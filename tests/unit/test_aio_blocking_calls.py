"""The messages that jobs send in a thread, over one connection, or as Celery sends them."""

from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock, call

import pytest
import redis
from celery import Celery, canvas
from celery.result import AsyncResult
from kombu.exceptions import OperationalError

from worker.aio import blocking_calls, bridge, private_loop
from worker.aio.blocking_calls import _one_producer_a_thread, _send, guard_backend
from worker.aio.pipelined_publishing import KeptMessages, NotPlain, is_wanted


class Calls:
    """A job's bridge: what it awaits, and what it runs in a thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.in_thread = list[Any]()
        self.bridged = True
        self.send = AsyncMock()
        monkeypatch.setattr(bridge, "is_bridged", lambda: self.bridged)
        monkeypatch.setattr(bridge, "wait", self._wait)
        monkeypatch.setattr(bridge, "call", self._call)
        monkeypatch.setattr(blocking_calls, "send", self.send)

    def _wait(self, coroutine: Any) -> Any:
        try:
            coroutine.send(None)
        except StopIteration as end:
            return end.value
        raise AssertionError

    def _call(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        self.in_thread.append(function)
        return function(*args, **kwargs)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


# Whether the job may await, whether pipelining is on and how it ends; who publishes.
@pytest.mark.parametrize(
    ("bridged", "wanted", "error", "by"),
    [
        (True, True, None, "pipeline"),
        (True, True, NotPlain(), "thread"),
        (True, True, redis.ConnectionError("gone"), "thread"),
        (True, True, OperationalError("gone"), "thread"),
        (True, True, OSError("gone"), "thread"),
        (True, False, None, "thread"),
        (False, True, None, "thread"),
    ],
)
def test_a_message_goes_with_those_of_other_jobs_or_in_a_thread(
    calls: Calls, error: Exception | None, by: str, *, bridged: bool, wanted: bool
) -> None:
    app, stock = object(), Mock()
    kept = KeptMessages()
    calls.bridged = bridged

    async def send(of: Any, make: Any) -> Any:
        assert of is app
        if error is not None:
            raise error
        return make(kept)

    calls.send.side_effect = send
    token = is_wanted.set(wanted)
    try:
        assert _send(app, stock, "task", args=(1,)) is stock.return_value
    finally:
        is_wanted.reset(token)
    piped = by == "pipeline"
    more = {"producer": kept} if piped else {}
    assert stock.call_args_list == [call("task", args=(1,), **more)]
    assert calls.in_thread == ([] if piped else [stock])
    calls.in_thread.clear()
    assert _send(app, stock, "task", producer=kept) is stock.return_value
    assert calls.in_thread == []


def test_a_function_that_sends_several_messages_is_one_call_and_installing_can_be_undone(
    calls: Calls,
) -> None:
    app, stock = Celery(set_as_current=False), canvas.group.apply_async
    joined = AsyncResult.get
    before_install = (app.send_task.__func__, app.amqp._retry_publish)
    blocking_calls.install(app)
    try:
        assert canvas.group.apply_async is not stock
        assert canvas.group.apply_async.__wrapped__ is stock
        assert "send_task" in vars(app)
        wrapped = blocking_calls._in_one_thread(sorted)
        assert wrapped([2, 1], reverse=True) == [2, 1]
        assert calls.in_thread == [sorted]
    finally:
        blocking_calls.uninstall(app)
    assert canvas.group.apply_async is stock
    assert AsyncResult.get is joined
    assert (app.send_task.__func__, app.amqp._retry_publish) == before_install
    blocking_calls.uninstall(app)  # a second call does nothing


def test_a_thread_has_one_producer_however_deep_its_groups_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    acquired: list[Any] = []

    @contextmanager
    def acquire(producer: Any = None) -> Any:
        acquired.append(producer)
        yield producer or f"new {len(acquired)}"

    per_thread = _one_producer_a_thread(acquire)
    with per_thread() as first:
        with per_thread() as inner, per_thread("own") as own:
            assert (first, inner, own) == ("new 1", "new 1", "own")
        with pytest.raises(ValueError, match="x"), per_thread():
            raise ValueError("x")
    with pytest.raises(ValueError, match="x"), per_thread() as failing:
        raise ValueError("x")
    with per_thread() as next_one:
        assert next_one != first
    assert failing != next_one
    assert acquired == [None, "new 1", "own", "new 1", None, None]
    monkeypatch.setattr(private_loop, "is_running_here", lambda: True)
    with per_thread() as producer, per_thread() as next_producer:
        assert producer != next_producer, "the loop's thread keeps no producer"


def test_another_backend_stores_in_threads_with_the_backend_of_that_thread(
    calls: Calls,
) -> None:
    there = Mock()

    class Backend:
        errbacks: Any = Mock()

        def store_result(self, *args: Any, **kwargs: Any) -> Any:
            return ("here", args, kwargs)

        def _call_task_errbacks(self, *args: Any) -> None:
            self.errbacks(*args)

    app: Any = SimpleNamespace(backend=Backend())
    guard_backend(app)
    stored = app.backend.store_result
    guard_backend(app)
    assert app.backend.store_result is stored, "the backend is guarded only once"
    assert not hasattr(app.backend, "get_state")
    app.backend._call_task_errbacks(1, 2)
    assert Backend.errbacks.call_args == call(1, 2)
    app.backend = there
    assert stored("job", state="x") is there.store_result.return_value
    assert there.store_result.call_args == call("job", state="x")
    assert len(calls.in_thread) == 1
    calls.bridged = False
    assert stored("job", state="x") == ("here", ("job",), {"state": "x"})
    awaits: Any = SimpleNamespace(backend=SimpleNamespace(awaits_in_jobs=True))
    guard_backend(awaits)
    assert vars(awaits.backend) == {"awaits_in_jobs": True}
