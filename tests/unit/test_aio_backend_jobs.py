"""Who waits for the result store: a job's greenlet, its thread, nobody, or Celery."""

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock, call

import pytest
from celery import states
from celery.backends.redis import RedisBackend as StockBackend

from tests.unit.test_aio_backend import AWAY, WRONG, Store, store
from worker.aio import backend as backend_module
from worker.aio import bridge, private_loop, stacks
from worker.aio.backend import _ended_job, _job_of_thread, _wait
from worker.aio.job import Job

__all__ = ["store"]


def job_of(*, in_thread: bool = True, body_ended: bool = False) -> Job:
    job = Job(Mock(), len, ("x", "job-1"), Mock(), in_thread=in_thread)
    job.body_ended = body_ended
    return job


def test_an_answer_is_awaited_in_the_greenlet_of_a_job_or_in_its_thread(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited, job = Mock(), Mock()
    monkeypatch.setattr(bridge, "wait", waited)
    monkeypatch.setattr(backend_module, "_job_of_thread", lambda: job)
    answer: Any = object()
    assert _wait(answer) is waited.return_value
    job.complete.assert_not_called()
    store.bridged = False
    assert _wait(answer) is job.complete.return_value
    assert (waited.call_args_list, job.complete.call_args_list) == ([call(answer)], [call(answer)])
    assert store.backend._bridged()


def test_celerys_own_pauses_block_no_loop(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    waited, stock = list[Any](), Mock()
    monkeypatch.setattr(bridge, "wait", lambda coroutine: (coroutine.close(), waited.append(1)))
    monkeypatch.setattr(StockBackend, "_sleep", stock)
    store.backend._sleep(3)
    assert (waited, stock.call_args_list) == ([1], [])
    store.bridged = False
    store.backend._sleep(3)
    assert (waited, stock.call_args_list) == ([1], [call(3)])


# The result of the first attempt, whether the caller is in a greenlet, and the error after which it
# is repeated.
@pytest.mark.parametrize(
    ("answer", "bridged", "retried_after"),
    [(b"old", True, "nothing"), (None, True, "nothing"), (AWAY, True, AWAY), (WRONG, True, WRONG),
     (b"old", False, None)],
)  # fmt: skip
def test_a_result_is_stored_in_one_step_and_again_after_an_error_that_passes(
    store: Store, monkeypatch: pytest.MonkeyPatch, answer: Any, retried_after: Any, *, bridged: bool
) -> None:
    store.bridged = bridged
    error = answer if isinstance(answer, Exception) else None
    monkeypatch.setattr(bridge, "wait", Mock(side_effect=error, return_value=answer))
    monkeypatch.setattr(backend_module, "_wait", lambda answer_waited_for: answer_waited_for)
    retried = Mock()
    pipelining = Mock()
    monkeypatch.setattr(store.backend, "_until_reached", retried, raising=False)
    monkeypatch.setattr(store.backend, "_pipelining", lambda: pipelining, raising=False)
    if answer is WRONG:
        with pytest.raises(type(WRONG)):
            store.backend._store("key", "v", 60)
        retried.assert_not_called()
        return
    stored = store.backend._store("key", "v", 60)
    if retried_after == "nothing":
        assert stored is answer
        retried.assert_not_called()
    else:
        assert stored is retried.return_value
        assert retried.call_args.kwargs == {"error": retried_after}
        pipelining.reset_mock()
        assert retried.call_args.args[0]() is pipelining.store.return_value
    assert pipelining.store.call_args_list == [call("key", "v", 60)]


# Where the code runs, and who stores the result.
@pytest.mark.parametrize(
    ("where", "by"),
    [("a job", "ours"), ("a child task", "beside"), ("elsewhere", "celery"),
     ("a job, with more arguments", "celery"), ("a job, always retried", "celery"),
     ("a child task, with more arguments", "celery"), ("a child task, no twin", "celery")],
)  # fmt: skip
def test_a_state_is_stored_by_our_backend_in_a_job_beside_a_child_task_and_by_celery_elsewhere(
    store: Store, monkeypatch: pytest.MonkeyPatch, where: str, by: str
) -> None:
    store.bridged = where.startswith("a job")
    store.backend.always_retry = "always" in where
    if "no twin" in where:
        store.backend.connparams = {"connection_class": object}
    more = {"x": 1} if "more" in where else {}
    beside, stock, ours, started = Mock(), Mock(), Mock(), Mock()
    is_child = where.startswith("a child task")
    monkeypatch.setattr(private_loop, "is_pool_loop_here", lambda: is_child)
    monkeypatch.setattr(private_loop, "start_in_background", started)
    monkeypatch.setattr(StockBackend, "store_result", stock)
    for name, value in (
        ("_store_beside", beside),
        ("_store_result", ours),
        ("encode_result", lambda result, state: (result, state)),
    ):
        monkeypatch.setattr(store.backend, name, value, raising=False)
    returned = store.backend.store_result("job", "r", states.SUCCESS, "t", request="q", **more)
    arguments = ("job", "r", states.SUCCESS, "t")
    if by == "celery":
        assert returned is stock.return_value
        assert stock.call_args_list == [call(*arguments, request="q", **more)]
    elif by == "beside":
        assert returned == "r"
        assert beside.call_args_list == [call(*arguments, "q")]
        assert started.call_args_list == [call(beside.return_value)]
    else:
        assert returned == ("r", states.SUCCESS)
        assert ours.call_args_list == [call("job", returned, states.SUCCESS, "t", request="q")]
    called = {"celery": stock, "beside": beside, "ours": ours}
    assert [name for name, each in called.items() if each.called] == [by]


def test_a_thread_of_a_plain_task_knows_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, is_here, known in (
        (job := job_of(), False, job),
        (job, True, None),  # a private loop runs in that thread
        (job_of(in_thread=False), False, None),
        (SimpleNamespace(in_thread=True), False, None),
    ):
        monkeypatch.setattr(private_loop, "is_running_here", lambda is_here=is_here: is_here)
        assert stacks.context_of(owner).run(_job_of_thread) is known


def test_a_job_has_ended_with_its_body() -> None:
    ended = job_of(body_ended=True)
    for owner, known in (
        (ended, ended),
        (job_of(), None),
        (SimpleNamespace(body_ended=True), None),
    ):
        assert stacks.context_of(owner).run(_ended_job) is known


async def test_each_loop_has_a_connection_of_its_own(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Mock(side_effect=lambda *_: object())
    monkeypatch.setattr(backend_module, "pipelining_of", opened)
    store.backend.app, store.backend.url = object(), "redis://"
    first = store.backend._pipelining()
    assert store.backend._pipelining() is first
    opened.assert_called_once_with((id(store.backend.app), "redis://"), store.backend._async_client)

    async def elsewhere() -> Any:
        return store.backend._pipelining()

    assert await asyncio.to_thread(asyncio.run, elsewhere()) is not first


async def test_commands_run_in_the_pipeline(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run = AsyncMock(return_value=["a"])
    monkeypatch.setattr(
        store.backend, "_pipelining", lambda: SimpleNamespace(run=run), raising=False
    )
    assert await store.backend.run(("GET", "key"), ("X",)) == ["a"]
    assert run.await_args_list == [call((("GET", "key"), ("X",)))]
