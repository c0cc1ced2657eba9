"""A pool's set-up at its start, its defaults, and what it undoes at its end."""

import asyncio
import sys
import threading
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from celery import Celery, signals
from celery.exceptions import Ignore
from kombu.asynchronous import Hub

from tests.unit.aio_pool.pool_outcome import Outcome, Start, settled
from worker.aio import intake, shutdown
from worker.aio.loop_thread import LoopThread, new_loop
from worker.aio.pool import TaskPool


@pytest.mark.parametrize("limit", [None, 0])
def test_a_pool_without_a_limit_runs_one_job_at_a_time(app: Celery, limit: int | None) -> None:
    pool = TaskPool(limit, app=app)
    assert pool.limit == 1
    pool.limit = limit  # type: ignore[assignment]
    assert pool.limit == 1


def test_a_pool_grows_and_shrinks_by_one(start: Start) -> None:
    pool = start(2)
    pool.grow()
    assert pool.limit == 3
    pool.shrink()
    pool.shrink()
    assert pool.limit == 1


def test_the_info_of_a_pool_names_its_loop(start: Start) -> None:
    info = start(aio_loop="asyncio").info
    assert info["loop"].startswith("asyncio.")
    assert (info["threads"], info["queued"], info["processes"]) == (0, 0, [])


def test_plain_messages_of_a_task_are_taken_in_fewer_steps(app: Celery, start: Start) -> None:
    @app.task(shared=False)
    async def nothing() -> None: ...

    assert nothing.Strategy == intake.STOCK_STRATEGY
    start()
    assert nothing.Strategy == "worker.aio.intake:strategy"


def test_a_function_that_is_not_a_task_runs_in_a_thread(start: Start) -> None:
    ended: Future[threading.Thread] = Future()
    start().apply_async(threading.current_thread, callback=ended.set_result)
    assert ended.result(10).name.startswith("aio-task")


def test_a_coroutine_of_a_plain_task_is_awaited(app: Celery, start: Start) -> None:
    async def later() -> str:
        await asyncio.sleep(0)
        return threading.current_thread().name

    @app.task(shared=False)
    def plain() -> Any:
        return later()

    assert Outcome(start(), plain).answer[:2] == (0, "'aio-loop'")


def test_a_job_is_terminated_by_its_number(app: Celery, start: Start) -> None:
    @app.task(shared=False)
    async def wait() -> None:
        await asyncio.Event().wait()

    pool = start()
    job = Outcome(pool, wait)
    pool.terminate_job(job.accepted.result(10), 15)
    assert job.answer.exception.exc.args == (15,)


def test_a_soft_limit_is_raised_at_the_await_and_is_not_a_cancellation_afterwards(
    app: Celery, start: Start
) -> None:
    @app.task(shared=False)
    async def catches() -> list[Any]:
        try:
            async with asyncio.timeout(60):
                await asyncio.Event().wait()
        except SoftTimeLimitExceeded as exc:
            task = asyncio.current_task()
            assert task is not None
            return [*exc.args, task.cancelling()]
        return []

    job = Outcome(start(), catches, soft_timeout=0.05)
    assert job.answer[:2] == (0, "[0.05, 0]")
    assert job.timeouts == [True]


def test_a_job_sees_the_error_that_its_child_raised_at_the_soft_limit(
    app: Celery, start: Start
) -> None:
    async def child() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise KeyError("child") from None

    @app.task(shared=False)
    async def waits() -> str:
        try:
            await asyncio.create_task(child())
        except KeyError as exc:
            return str(exc.args[0])
        return "nothing"

    assert Outcome(start(), waits, soft_timeout=0.05).answer[:2] == (0, "'child'")


def test_a_cancellation_that_nobody_ordered_is_not_a_time_limit(app: Celery, start: Start) -> None:
    @app.task(shared=False)
    async def cancels_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    assert "neither a time limit nor a revoke was the reason" in repr(
        Outcome(start(), cancels_itself).answer
    )


def test_a_job_that_is_to_be_ignored_ends(app: Celery, start: Start) -> None:
    @app.task(shared=False)
    async def ignored() -> None:
        raise Ignore

    pool = start()
    assert Outcome(pool, ignored).answer[1].type is Ignore
    assert settled(pool, running=0, queued=0)


def test_a_soft_shutdown_is_the_pools_own(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    softly = Mock()
    monkeypatch.setattr(shutdown, "wait_softly", softly)
    before = {key for key, _ in signals.worker_ready.receivers}
    pool, worker = start(), SimpleNamespace(wait_for_soft_shutdown=None)
    [receiver] = [receiver for key, receiver in signals.worker_ready.receivers if key not in before]
    for sender in (
        None,
        SimpleNamespace(controller=None, pool=pool),
        SimpleNamespace(controller=worker, pool=object()),
    ):
        receiver(sender=sender, signal=signals.worker_ready)
        assert worker.wait_for_soft_shutdown is None
    receiver(sender=SimpleNamespace(controller=worker, pool=pool), signal=signals.worker_ready)
    worker.wait_for_soft_shutdown()  # type: ignore[misc]
    assert softly.call_args_list == [call(pool, worker)]
    pool.stop()
    assert {key for key, _ in signals.worker_ready.receivers} == before


def test_a_pool_that_ends_leaves_the_hub_and_takes_no_more_calls(start: Start) -> None:
    pool, hub = start(), Hub()
    pool.register_with_event_loop(hub)
    assert len(hub.readers) == 1
    pool.stop()
    assert not hub.readers
    for threads in (pool.task_threads, pool.call_threads):
        with pytest.raises(RuntimeError, match="shut down"):
            threads.submit(int)
    hub.close()


def test_a_worker_ends_although_its_loop_does_not(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stock = LoopThread.stop

    def stop(thread: LoopThread, *, patience_s: float) -> bool:
        assert stock(thread, patience_s=patience_s)
        return False

    start().stop()
    assert caplog.messages == []
    monkeypatch.setattr(LoopThread, "stop", stop)
    start().stop()
    assert caplog.messages == ["the event loop does not respond; the worker ends without it"]


def test_another_backend_than_ours_stores_in_a_thread(
    app: Celery, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[tuple[str, str]] = []
    kind = type(app.backend)
    stock = kind.store_result

    def store(self: Any, task_id: str, result: Any, state: str, *args: Any, **kwargs: Any) -> Any:
        stored.append((threading.current_thread().name.rpartition("-")[0], state))
        return stock(self, task_id, result, state, *args, **kwargs)

    monkeypatch.setattr(kind, "store_result", store)

    @app.task(shared=False)
    async def double(x: int) -> int:
        return 2 * x

    pool = start()
    assert Outcome(pool, double, 4).answer[1] == "8"
    assert stored == [("aio-call", "SUCCESS")]


def test_a_warm_stop_waits_for_the_jobs_that_run(app: Celery, start: Start) -> None:
    @app.task(shared=False)
    async def slow() -> str:
        await asyncio.sleep(0.1)
        return "whole"

    pool = start()
    job = Outcome(pool, slow)
    job.accepted.result(10)
    pool.stop()
    assert job.answer[:2] == (0, "'whole'")


def test_uvloop_has_to_be_there_only_if_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    new_loop("auto").close()
    with pytest.raises(ImportError):
        new_loop("uvloop")
