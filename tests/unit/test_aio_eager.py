"""Eager mode: people's own unit tests call `async def` tasks without a pool."""

import asyncio
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from celery import Celery, chain, current_task, group
from celery.exceptions import Retry
from pydantic import BaseModel

from worker.aio import private_loop
from worker.aio.adopt import adopt, calling_errbacks, complete, is_async
from worker.aio.result import await_result


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("eager", task_cls="worker.aio.adopt:Task", set_as_current=False)
    app.conf.update(task_always_eager=True, task_eager_propagates=True, broker_url="memory://")
    yield app
    app.close()


@pytest.fixture
def add(app: Celery) -> Any:
    @app.task(shared=False)
    async def add(x: int, y: int) -> int:
        await asyncio.sleep(0)
        return x + y

    return add


def test_a_coroutine_runs_eagerly(add: Any) -> None:
    assert add.delay(1, 2).get() == 3
    assert chain(add.s(1, 2), add.s(3)).apply_async().get() == 6
    assert group(add.s(1, n) for n in range(3)).apply_async().get() == [1, 2, 3]


async def test_a_coroutine_runs_eagerly_under_a_running_loop(add: Any) -> None:
    result = add.delay(1, 2)
    assert result.get() == 3
    assert await await_result(result) == 3


async def test_a_direct_call_stays_a_coroutine(add: Any) -> None:
    assert await add(1, 2) == 3


def test_an_errback_awaits_the_tasks_that_it_calls(app: Celery, add: Any) -> None:
    @app.task(shared=False)
    async def errback(failed: int) -> int:
        return await add(failed, 1) + await add(failed, 2)

    with calling_errbacks():  # Celery calls it like a function
        assert [errback(10), errback(10)] == [23, 23]
    later = errback(10)  # called by other code
    assert asyncio.iscoroutine(later)
    later.close()


def test_eager_tasks_may_call_each_other_in_depth(app: Celery, add: Any) -> None:
    @app.task(shared=False, bind=True)
    async def inner(self: Any, n: int) -> list[Any]:
        await asyncio.sleep(0)
        in_a_thread = await asyncio.to_thread(add.delay, n, 2)
        return [
            add.delay(n, 1).result,
            add.apply((n, n)).result,
            in_a_thread.result,
            self.request.id,
        ]

    @app.task(shared=False, bind=True)
    async def outer(self: Any) -> list[Any]:
        *sums, inner_id = inner.delay(3).result
        return [sums, inner_id != self.request.id, current_task.request.id == self.request.id]

    assert outer.delay().get() == [[4, 6, 5], True, True]
    assert outer.apply().get() == [[4, 6, 5], True, True]


def test_an_eager_task_may_be_replaced_by_another(app: Celery, add: Any) -> None:
    @app.task(shared=False, bind=True)
    async def stands_in(self: Any) -> Any:
        await asyncio.sleep(0)
        return self.replace(add.s(1, 2))

    assert stands_in.apply().get() == 3


def test_child_tasks_and_threads_see_the_request_of_their_job(app: Celery) -> None:
    @app.task(shared=False, bind=True)
    async def request_ids(self: Any) -> list[str]:
        async def child() -> str:
            return str(current_task.request.id)

        return [
            self.request.id,
            await asyncio.create_task(child()),
            await asyncio.to_thread(lambda: self.request.id),
        ]

    result = request_ids.delay()
    assert set(result.get()) == {result.id}
    assert current_task._get_current_object() is None


def test_an_eager_task_is_retried_and_its_hooks_are_awaited(app: Celery) -> None:
    seen: list[str] = []

    class Hooked(app.Task):  # type: ignore[name-defined, misc]
        abstract = True

        async def on_success(self, *_: Any) -> None:
            await asyncio.sleep(0)
            seen.append("on_success")

    @app.task(
        shared=False,
        base=Hooked,
        bind=True,
        autoretry_for=(KeyError,),
        retry_kwargs={"countdown": 0},
    )
    async def flaky(self: Any) -> int:
        if self.request.retries < 2:
            raise KeyError
        return int(self.request.retries)

    app.conf.task_eager_propagates = False
    assert flaky.apply().get() == 2
    assert seen == ["on_success"]
    app.conf.task_eager_propagates = True
    with pytest.raises(Retry):
        flaky.apply()


def test_a_model_is_dumped_as_celery_would_for_a_plain_function(app: Celery) -> None:
    class Point(BaseModel):
        x: int

    @app.task(shared=False, pydantic=True)
    async def move(point: Point) -> Point:
        return Point(x=point.x + 1)

    assert is_async(move)
    assert move.delay({"x": 1}).get() == {"x": 2}


def test_only_celerys_own_wrappers_are_looked_through(app: Celery) -> None:
    import functools  # noqa: PLC0415

    async def body() -> None: ...

    @functools.wraps(body)
    def runs_it_itself() -> None:
        asyncio.run(body())

    assert is_async(app.task(body, shared=False, name="a"))
    assert is_async(app.task(body, shared=False, name="b", autoretry_for=(KeyError,)))
    assert not is_async(app.task(runs_it_itself, shared=False, name="c"))


def test_a_coroutine_that_nobody_waits_for_any_more_is_cancelled() -> None:
    class Interrupted(Future[None]):
        def result(self, timeout: float | None = None) -> None:  # noqa: ARG002 - as the base
            raise KeyboardInterrupt

    running = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        private_loop.result_of(running)
    assert running.cancelled()


def test_an_error_of_a_task_within_a_task_is_that_of_its_caller(app: Celery) -> None:
    @app.task(shared=False)
    async def inner() -> None:
        await asyncio.sleep(0)
        raise KeyError("inner")

    @app.task(shared=False)
    async def outer() -> str:
        try:
            inner.delay()
        except KeyError as exc:
            return f"seen: {exc}"
        return "nothing"

    assert outer.delay().get() == "seen: 'inner'"


def test_a_task_is_adapted_once(app: Celery, add: Any) -> None:
    run = add.run
    adopt(add)
    assert add.run is run
    assert add.light_retry is False


def test_a_value_that_is_not_a_coroutine_stays_as_it_is() -> None:
    assert complete("value") == complete("value", name="a hook") == "value"


def test_a_forked_process_begins_with_loops_of_its_own(
    add: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_loop", "_lock", "_pool_loop"):
        monkeypatch.setattr(private_loop, name, getattr(private_loop, name))
    assert add.delay(1, 2).get() == 3
    of_the_parent, of_the_pool = private_loop._loop, asyncio.new_event_loop()
    private_loop.set_pool_loop(of_the_pool)
    private_loop._forget_after_fork()
    before = set(threading.enumerate())
    assert private_loop.pool_loop() is None
    assert add.delay(1, 2).get() == 3
    assert private_loop._loop is not of_the_parent
    # Freeing them would close what the parent uses.
    assert private_loop._of_the_parent[-2:] == [of_the_parent, of_the_pool]
    loop = private_loop._loop
    assert loop is not None
    [thread] = set(threading.enumerate()) - before
    loop.call_soon_threadsafe(loop.stop)
    thread.join(20)
    loop.close()
    of_the_pool.close()


async def test_a_coroutine_in_the_background_is_not_collected() -> None:
    async def wait() -> None:
        await asyncio.get_running_loop().create_future()

    before = asyncio.all_tasks()
    private_loop.start_in_background(wait())
    await asyncio.sleep(0)
    gc.collect()
    [task] = asyncio.all_tasks() - before
    task.cancel()
    await asyncio.wait([task])


async def test_a_hook_that_fails_while_nobody_waits_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def hook() -> None:
        raise ValueError("no")

    private_loop.set_pool_loop(asyncio.get_running_loop())
    try:
        assert complete(hook(), name="x.on_failure") is None
        await asyncio.wait(private_loop._background)
    finally:
        private_loop.set_pool_loop(None)
    assert caplog.messages == ["x.on_failure raised; no job waits for it, and the worker goes on"]
