"""Tasks, the lifespan and remote control in a pool that runs in this process."""

import asyncio
import logging
import threading
from concurrent.futures import Future
from contextlib import ExitStack
from contextvars import ContextVar
from typing import Any

import pytest
from celery import Celery, signals
from celery.app.trace import trace_task_ret
from celery.result import AsyncResult, ResultSet, allow_join_result
from celery.utils import uuid

from tests.unit.aio_pool.pool_outcome import Outcome, Start
from worker.aio import lifespan
from worker.aio.pool import TaskPool


def test_a_task_registered_after_the_start_runs_too(app: Celery, start: Start) -> None:
    pool = start()

    @app.task(shared=False)
    async def late() -> str:
        return "here"

    assert Outcome(pool, late).answer[1] == "'here'"
    pool.restart()
    assert Outcome(pool, late).answer[1] == "'here'"


def test_the_items_of_a_sequence_are_awaited_if_the_apps_own_base_has_adapted_the_tasks() -> None:
    """The base adapts each task at its creation, before the pool has adapted Celery's sequences."""
    with Celery("based", task_cls="worker.aio.adopt:Task", set_as_current=False) as based:

        @based.task(shared=False)
        async def add(x: int, y: int = 1) -> int:
            await asyncio.sleep(0)
            return x + y

        pool = TaskPool(4, app=based)
        pool.start()
        try:
            for kind, items, given in (("map", [1, 2], "[2, 3]"), ("starmap", [(1, 2)], "[3]")):
                whole = based.tasks[f"celery.{kind}"]
                assert Outcome(pool, whole, add.s(), items).answer[1] == given
        finally:
            pool.terminate()


def test_a_job_may_have_keyword_arguments_as_in_other_pools(app: Celery, start: Start) -> None:
    @app.task(shared=False)
    async def late() -> str:
        return "here"

    ended: Future[Any] = Future()
    start().apply_async(
        trace_task_ret,
        (late.name, "job-1", {"id": "job-1", "task": late.name, "delivery_info": {}}),
        {"body": ((), {}, {}), "content_type": None, "content_encoding": None},
        callback=ended.set_result,
        error_callback=ended.set_result,
    )
    assert ended.result(20)[1] == "'here'"


def test_remote_control_has_connections_though_jobs_hold_all_that_the_app_has(
    app: Celery, start: Start
) -> None:
    start()
    with ExitStack() as lent, app.connection_for_write() as connection:
        for _ in range(app.pool.limit):
            lent.enter_context(app.producer_pool.acquire())
        app.control.broadcast(
            "ping", connection=connection
        )  # as the consumer does to greet its neighbours


@pytest.mark.parametrize("in_thread", [False, True])
def test_a_job_sees_no_context_variable_of_the_job_before_it(
    app: Celery, start: Start, *, in_thread: bool
) -> None:
    user: ContextVar[str] = ContextVar("user", default="nobody")

    def body() -> str:
        seen = user.get()
        user.set("somebody")
        return seen

    async def awaiting() -> str:
        return body()

    task = app.task(shared=False)(body if in_thread else awaiting)
    pool = start(1)
    # All but the first wait for a slot, which the job before frees.
    jobs = [Outcome(pool, task) for _ in range(20)]
    assert {job.answer[1] for job in jobs} == {"'nobody'"}


def test_the_lifespan_begins_serves_other_threads_and_ends(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifespan, "_startups", [])
    seen: list[str] = []
    began = threading.Event()

    @lifespan.on_startup
    async def forever() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("cancelled")

    async def first() -> None:
        seen.append("first")

    async def broken() -> None:
        raise ValueError("broken cleanup")

    for function in (first, broken):
        lifespan.on_shutdown(function)
    pool = start(aio_loop="asyncio")
    assert began.wait(10)
    late = threading.Event()

    async def later() -> None:
        late.set()
        raise ValueError("broken background")

    lifespan.on_startup(later)
    assert late.wait(10)

    async def answer() -> int:
        return 42

    assert lifespan.submit(answer()).result(10) == 42
    with caplog.at_level(logging.ERROR):
        pool.stop()
    assert seen == ["cancelled", "first"]
    assert "broken cleanup" in caplog.text
    with pytest.raises(RuntimeError, match="no asyncio pool is running"):
        lifespan.submit(answer())


@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt])
def test_a_child_tasks_exit_does_not_stop_the_loop(
    app: Celery, start: Start, ending: type[BaseException]
) -> None:
    @app.task(shared=False)
    async def spawns() -> str:
        async def child() -> None:
            raise ending

        task = asyncio.create_task(child())
        await asyncio.wait((task,))
        return type(task.exception()).__name__

    for loop in ("asyncio", "auto"):
        pool = start(aio_loop=loop)
        assert Outcome(pool, spawns).answer[1] == repr(ending.__name__)
        assert Outcome(pool, spawns).answer[1] == repr(ending.__name__)
        pool.stop()


def test_an_async_call_of_the_task_class_is_awaited(app: Celery, start: Start) -> None:
    class Traced(app.Task):  # type: ignore[name-defined, misc]
        abstract = True

        async def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return ["traced", await self.run(*args, **kwargs)]

    @app.task(shared=False, base=Traced)
    async def double(x: int) -> int:
        return 2 * x

    assert Outcome(start(), double, 2).answer[1] == "['traced', 4]"


def test_a_task_that_is_registered_again_under_its_name_is_the_one_that_runs(
    app: Celery, start: Start
) -> None:
    pool = start()

    @app.task(shared=False, name="same")
    async def before() -> str:
        return "before"

    assert Outcome(pool, before).answer[1] == "'before'"
    app.tasks.pop("same")

    @app.task(shared=False, name="same")
    def after() -> str:
        return "after"

    assert Outcome(pool, after).answer[1] == "'after'"


def test_the_maps_of_async_and_of_plain_tasks_give_what_the_items_give(
    app: Celery, start: Start
) -> None:
    @app.task(shared=False, bind=True)
    async def double(self: Any, x: int) -> int:
        await asyncio.sleep(0)
        assert self.request.args == (x,)
        return 2 * x

    @app.task(shared=False)
    def difference(x: int, y: int) -> int:
        assert "aio-task" in threading.current_thread().name
        return x - y

    @app.task(shared=False)
    async def total(x: int, y: int) -> int:
        return x + y

    pool = start()
    for kind, task, items, given in (
        ("map", double, [1, 2, 3], [2, 4, 6]),
        ("starmap", total, [(1, 2), (3, 4)], [3, 7]),
        ("starmap", difference, [[5, 2], [3, 3]], [3, 0]),
    ):
        signature = getattr(task, kind)(items)
        arguments = (signature.kwargs["task"], signature.kwargs["it"])
        assert Outcome(pool, app.tasks[signature.task], *arguments).answer[1] == repr(given)


def test_async_receivers_of_signals_are_awaited_in_jobs_and_in_what_jobs_start(
    app: Celery, start: Start
) -> None:
    seen: list[str] = []
    loops: list[asyncio.AbstractEventLoop] = []
    last = threading.Event()

    async def receiver(signal: Any = None, **_: Any) -> None:
        await asyncio.sleep(0)
        seen.append(signal.name)

    async def broken(**_: Any) -> None:
        raise ValueError("of a receiver")

    async def late(**_: Any) -> None:
        loops.append(asyncio.get_running_loop())
        last.set()

    @app.task(shared=False)
    async def nothing() -> list[str]:
        return seen[:]

    @app.task(shared=False)
    async def sends_signal() -> None:
        async def child() -> None:
            loops.append(asyncio.get_running_loop())
            signals.task_revoked.send(sender=nothing)

        await asyncio.create_task(child())

    before = signals.task_success.send(
        sender=app
    )  # other tests' apps may have receivers in this process
    pool = start()
    for signal in (signals.task_prerun, signals.task_success, signals.task_postrun):
        signal.connect(broken, sender=nothing)
        signal.connect(receiver, sender=nothing)
    signals.task_revoked.connect(late, sender=nothing)
    assert Outcome(pool, nothing).answer[1] == "['task_prerun']"
    assert seen == ["task_prerun", "task_success", "task_postrun"]
    assert Outcome(pool, sends_signal).answer[0] == 0
    assert last.wait(10)
    assert loops[0] is loops[1], "a second loop would hold up the child and all other jobs"
    pool.stop()
    assert signals.task_success.send(sender=app) == before


def test_a_job_that_joins_a_task_without_a_result_gets_none(app: Celery, start: Start) -> None:
    @app.task(shared=False)
    async def joins() -> Any:
        unknown = AsyncResult(uuid(), app=app)
        unknown.ignored = True
        with allow_join_result():
            return [unknown.get(timeout=5), *ResultSet([unknown], app=app).get(timeout=5)]

    assert Outcome(start(), joins).answer[:2] == (0, "[None, None]")


def test_a_job_that_may_wait_for_results_neither_allows_nor_forbids_it_to_others(
    app: Celery, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = AsyncResult(uuid(), app=app)
    app.backend.store_result(known.id, "known", "SUCCESS")
    first_in, first_out = asyncio.Event(), asyncio.Event()

    @app.task(shared=False)
    async def first() -> None:
        with allow_join_result():
            first_in.set()
            await second_in.wait()
        first_out.set()

    second_in = asyncio.Event()

    @app.task(shared=False)
    async def second() -> Any:
        await first_in.wait()
        with allow_join_result():
            second_in.set()
            await first_out.wait()
            return known.get(timeout=5)

    @app.task(shared=False)
    async def third() -> Any:
        await second_in.wait()
        return known.get(timeout=5)

    monkeypatch.setattr("celery._state._task_join_will_block", True)  # as in a worker
    pool = start()
    ends = [Outcome(pool, task) for task in (third, second, first)]
    assert ends[1].answer[:2] == (0, "'known'")
    assert "Never call result.get()" in repr(ends[0].answer)
    assert "Never call result.get()" in repr(Outcome(pool, third).answer)
