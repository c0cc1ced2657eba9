"""The pool in this process, without a consumer: limits of size, a missing hub, starts and stops out of order."""

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from celery import Celery
from celery.app.trace import trace_task_ret
from celery.exceptions import ImproperlyConfigured
from kombu.asynchronous import Hub

from worker.aio import holding, lifespan, shutdown
from worker.aio.pool import TaskPool, current_loop

Start = Callable[..., TaskPool]


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("unit", broker="memory://", backend="cache+memory://", set_as_current=False)
    yield app
    app.close()


@pytest.fixture
def start(app: Celery) -> Iterator[Start]:
    pools: list[TaskPool] = []

    def start(limit: int = 4, **options: Any) -> TaskPool:
        pool = TaskPool(limit, app=app, **options)
        pools.append(pool)
        pool.start()
        return pool

    yield start
    for pool in pools:
        pool.terminate()


class Outcome:
    """The four callbacks of one job, as the consumer's request has them."""

    def __init__(self, pool: TaskPool, task: Any, *args: Any, tag: str | None = None, **options: Any) -> None:
        self.id = str(uuid.uuid4())
        self.accepted: Future[int] = Future()
        self.ended: Future[Any] = Future()
        self.timeouts: list[bool] = []
        self.threads: set[str] = set()
        request = {"id": self.id, "task": task.name, "delivery_info": {}, "properties": {"delivery_tag": tag}}
        self.job = pool.apply_async(
            trace_task_ret,
            (task.name, self.id, request, (args, {}, {}), None, None),
            accept_callback=lambda pid, _: self._note(self.accepted, pid),
            callback=lambda answer: self._note(self.ended, answer),
            error_callback=lambda info: self._note(self.ended, info),
            timeout_callback=lambda soft, _: self.timeouts.append(soft),
            **options,
        )

    def _note(self, future: "Future[Any]", value: Any) -> None:
        self.threads.add(threading.current_thread().name)
        future.set_result(value)

    @property
    def answer(self) -> Any:
        return self.ended.result(10)


def test_without_a_hub_the_callbacks_run_where_they_are_posted(app: Celery, start: Start) -> None:
    @app.task(shared=False)
    async def double(x: int) -> int:
        return 2 * x

    done = Outcome(start(), double, 4)
    assert done.answer[:2] == (0, "8")
    assert done.accepted.result(1) == done.job.pid
    assert done.threads == {"aio-loop"}


def test_with_a_hub_the_callbacks_run_on_its_thread(app: Celery, start: Start) -> None:
    @app.task(shared=False)
    async def double(x: int) -> int:
        return 2 * x

    pool, hub = start(), Hub()
    pool.register_with_event_loop(hub)
    done = [Outcome(pool, double, n) for n in range(20)]
    deadline = time.monotonic() + 10
    while not all(each.ended.done() for each in done) and time.monotonic() < deadline:
        hub.run_once()
    assert [each.answer[1] for each in done] == [str(2 * n) for n in range(20)]
    assert {name for each in done for name in each.threads} == {threading.current_thread().name}
    hub.reset()  # what a lost connection does
    pool.register_with_event_loop(hub)
    again = Outcome(pool, double, 1)
    while not again.ended.done() and time.monotonic() < deadline:
        hub.run_once()
    assert again.answer[1] == "2"
    pool.stop()
    hub.close()


def test_jobs_beyond_the_limit_wait_and_grow_and_shrink_move_it(app: Celery, start: Start) -> None:
    gate = asyncio.Event()

    @app.task(shared=False)
    async def wait() -> None:
        await gate.wait()

    pool = start(2)
    jobs = [Outcome(pool, wait) for _ in range(5)]
    jobs[1].accepted.result(10)
    assert _settled(pool, running=2, queued=3)
    pool.grow(2)
    jobs[3].accepted.result(10)
    assert _settled(pool, running=4, queued=1)
    pool.shrink(3)
    assert pool.num_processes == pool.info["max-concurrency"] == 1
    assert pool.info["running"] == 4  # what runs goes on
    pool.loop.call_soon_threadsafe(gate.set)
    for job in jobs:
        assert job.answer[0] == 0


def test_a_pool_never_shrinks_to_nothing(app: Celery, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    @app.task(shared=False)
    async def double(x: int) -> int:
        return 2 * x

    pool = start(2)
    pool.shrink(5)
    assert pool.num_processes == 1
    assert "shrinks to one job at a time and not by 5" in caplog.text
    assert Outcome(pool, double, 4).answer[1] == "8"


def test_a_pool_that_has_grown_runs_as_many_plain_tasks_at_once(app: Celery, start: Start) -> None:
    together = threading.Barrier(4)

    @app.task(shared=False)
    def meet() -> None:
        together.wait(10)

    pool = start(1)
    pool.grow(3)
    jobs = [Outcome(pool, meet) for _ in range(4)]
    assert [job.answer[0] for job in jobs] == [0] * 4
    assert pool.info["threads"] == 4  # no more than were needed


def _settled(pool: TaskPool, *, running: int, queued: int) -> bool:
    deadline = time.monotonic() + 10
    while (pool.running, pool.queued) != (running, queued) and time.monotonic() < deadline:
        time.sleep(0.01)
    return (pool.running, pool.queued) == (running, queued)


def test_a_lost_connection_drops_what_waits_and_spares_what_runs(app: Celery, start: Start) -> None:
    gate = asyncio.Event()

    @app.task(shared=False)
    async def wait() -> None:
        await gate.wait()

    pool = start(1)
    first, second = Outcome(pool, wait), Outcome(pool, wait)
    first.accepted.result(10)
    pool.flush()
    pool.loop.call_soon_threadsafe(gate.set)
    assert first.answer[0] == 0
    assert _settled(pool, running=0, queued=0)
    assert not second.accepted.done()


@pytest.mark.parametrize("cancels", [False, True])
def test_where_a_connection_is_lost_nothing_more_begins_and_what_ended_is_reported(
    app: Celery, start: Start, *, cancels: bool
) -> None:
    app.conf.worker_cancel_long_running_tasks_on_connection_loss = cancels
    gates = [asyncio.Event() for _ in range(2)]

    @app.task(shared=False)
    async def wait(place: int) -> None:
        await gates[place].wait()

    pool, hub = start(2), Hub()
    pool.register_with_event_loop(hub)  # and it does not turn: nothing that is posted is read
    ended, running, waiting = (Outcome(pool, wait, place, tag=f"tag{place}") for place in (0, 1, 1))
    assert _settled(pool, running=2, queued=1)
    pool.loop.call_soon_threadsafe(gates[0].set)
    assert _settled(pool, running=2, queued=0)  # the third takes its slot
    late = Outcome(pool, wait, 0, tag="late")
    assert _settled(pool, running=2, queued=1)
    assert not ended.ended.done()
    assert holding.tags_that_run_on() == (set() if cancels else {"tag1"})
    assert ended.ended.done()
    pool.loop.call_soon_threadsafe(gates[1].set)
    assert _settled(pool, running=0, queued=0)
    pool.calls.drain()
    assert running.ended.done()
    assert waiting.ended.done()
    assert not late.accepted.done()
    hub.close()


def test_another_thread_may_ask_what_runs_on_and_reads_no_reports(app: Celery, start: Start) -> None:
    @app.task(shared=False)
    async def nothing() -> None: ...

    pool, hub = start(), Hub()
    pool.register_with_event_loop(hub)
    done = Outcome(pool, nothing)
    assert _settled(pool, running=0, queued=0)
    stranger = threading.Thread(target=holding.tags_that_run_on)
    stranger.start()
    stranger.join()
    assert not done.ended.done()
    pool.calls.drain()
    assert done.ended.done()
    hub.close()


def test_a_job_terminated_while_it_waits_is_accepted_and_never_runs(app: Celery, start: Start) -> None:
    gate, ran = asyncio.Event(), []

    @app.task(shared=False)
    async def wait() -> None:
        await gate.wait()

    @app.task(shared=False)
    async def never() -> None:
        ran.append("async")

    @app.task(shared=False)
    def never_either() -> None:
        ran.append("plain")

    pool = start(1)
    first = Outcome(pool, wait)
    doomed = [Outcome(pool, never), Outcome(pool, never_either)]
    first.accepted.result(10)
    for each in doomed:
        each.job.terminate(15)
        pool.terminate_job(each.job.pid, 15)
    pool.terminate_job(10**9)
    pool.loop.call_soon_threadsafe(gate.set)
    for each in doomed:
        assert isinstance(each.answer, ExceptionInfo)
        assert each.answer.type.__name__ == "Terminated"
        assert each.accepted.done()
    assert ran == []


def test_a_time_out_is_reported_once_and_nothing_after_it(app: Celery, start: Start) -> None:
    ended = Future()  # type: ignore[var-annotated]

    @app.task(shared=False)
    async def stubborn() -> str:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.set_result(None)
        return "too late"

    pool = start()
    job = Outcome(pool, stubborn, timeout=0.05)
    ended.result(10)
    assert _settled(pool, running=0, queued=0)
    assert job.timeouts == [False]
    assert not job.ended.done()


def test_a_job_that_is_over_frees_its_slot_once(app: Celery, start: Start) -> None:
    gate, swallowed = asyncio.Event(), threading.Event()

    @app.task(shared=False)
    async def stubborn() -> None:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                swallowed.set()

    pool = start(1)
    Outcome(pool, stubborn, timeout=0.05)
    assert swallowed.wait(10)
    others = [Outcome(pool, stubborn) for _ in range(2)]
    others[0].accepted.result(10)
    assert _settled(pool, running=2, queued=1)
    assert pool.unsettled == 1
    pool.loop.call_soon_threadsafe(gate.set)
    for each in others:
        assert each.answer[0] == 0
    assert _settled(pool, running=0, queued=0)
    assert pool.unsettled == 0


def test_a_cold_stop_gives_cancelled_jobs_the_time_that_was_set(
    app: Celery, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutdown, "_LINGER_S", 0.0)  # what a warm one gives them
    cleaned = threading.Event()

    @app.task(shared=False)
    async def slow_to_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.3)
            cleaned.set()

    pool = start()
    Outcome(pool, slow_to_end).accepted.result(10)
    pool.terminate()
    assert cleaned.is_set()


def test_a_job_after_the_end_is_left_to_the_broker(app: Celery, start: Start) -> None:
    @app.task(shared=False)
    async def double(x: int) -> int:
        return 2 * x

    pool = start()
    pool.close()
    late = Outcome(pool, double, 1)
    pool.stop()
    assert not late.accepted.done()


def test_a_task_registered_after_the_start_runs_too(app: Celery, start: Start) -> None:
    pool = start()

    @app.task(shared=False)
    async def late() -> str:
        return "here"

    assert Outcome(pool, late).answer[1] == "'here'"
    pool.restart()
    assert Outcome(pool, late).answer[1] == "'here'"


def test_stop_is_tolerated_before_the_start_and_twice(app: Celery, start: Start) -> None:
    never = TaskPool(2, app=app)
    never.close()
    never.stop()
    never.stop()
    never.terminate()
    assert never.info["loop"] is None
    pool = start()
    assert current_loop() is pool.loop
    pool.stop()
    pool.stop()
    pool.terminate()
    assert current_loop() is None
    pool.terminate_job(1)
    pool.grow()


def test_remote_control_has_connections_though_jobs_hold_all_that_the_app_has(app: Celery, start: Start) -> None:
    start()
    with ExitStack() as lent, app.connection_for_write() as connection:
        for _ in range(app.pool.limit):
            lent.enter_context(app.producer_pool.acquire())
        app.control.broadcast("ping", connection=connection)  # as the consumer greets its neighbours


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"maxtasksperchild": 10}, "worker_max_tasks_per_child has no meaning"),
        ({"max_memory_per_child": 10}, "worker_max_memory_per_child has no meaning"),
    ],
)
def test_recycling_is_refused(start: Start, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=words):
        start(**options)


def test_an_unknown_loop_is_refused(start: Start) -> None:
    with pytest.raises(ValueError, match="worker_aio_loop must be one of"):
        start(aio_loop="twisted")


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


def test_a_child_tasks_exit_does_not_stop_the_loop(app: Celery, start: Start) -> None:
    @app.task(shared=False)
    async def spawns() -> str:
        async def child() -> None:
            raise SystemExit(3)

        task = asyncio.create_task(child())
        await asyncio.wait((task,))
        return type(task.exception()).__name__

    for loop in ("asyncio", "auto"):
        pool = start(aio_loop=loop)
        assert Outcome(pool, spawns).answer[1] == "'SystemExit'"
        assert Outcome(pool, spawns).answer[1] == "'SystemExit'"
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
