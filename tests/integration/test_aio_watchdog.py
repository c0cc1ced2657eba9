"""The watchdog names the job that holds up the event loop, or none if no job does."""

import asyncio
import logging
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.app.trace import trace_task_ret
from kombu.asynchronous import Hub

from worker.aio import lifespan, watchdog
from worker.aio.pool import TaskPool

HOLD_S = 0.4
"""How long the loop is held up; it is reported after 0.05 s."""

Run = Callable[[Any], str]


@pytest.fixture(params=["asyncio", "uvloop"])
def pool(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[TaskPool]:
    monkeypatch.setattr(
        lifespan, "_startups", []
    )  # the loggers of apps that other tests have loaded may block
    app = Celery("unit", broker="memory://", backend="cache+memory://", set_as_current=False)
    pool = TaskPool(4, app=app, aio_blocked_ms=50, aio_loop=request.param)
    pool.start()
    yield pool
    pool.terminate()
    app.close()


@pytest.fixture
def run(pool: TaskPool) -> Run:
    """Run a task to its end and return its id."""

    def run(body: Any) -> str:
        task = pool.app.task(shared=False, name=f"unit.{body.__name__}")(body)
        task_id, ended = str(uuid.uuid4()), Future[Any]()
        request = {"id": task_id, "task": task.name, "delivery_info": {}, "properties": {}}
        pool.apply_async(
            trace_task_ret,
            (task.name, task_id, request, ((), {}, {}), None, None),
            callback=ended.set_result,
            error_callback=ended.set_result,
        )
        ended.result(10)
        return task_id

    return run


def test_a_job_is_named_when_its_child_task_holds_up_the_loop(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def child() -> None:
        await asyncio.sleep(0)
        time.sleep(HOLD_S)  # noqa: ASYNC251 - the misdeed under test

    async def parent() -> None:
        task = asyncio.create_task(child())
        task.add_done_callback(lambda _: None)  # has its own context
        await task

    task_id = run(parent)
    assert f"task unit.parent[{task_id}] has blocked the event loop" in caplog.text
    assert "time.sleep(HOLD_S)" in caplog.text


def test_a_task_on_the_loop_that_belongs_to_no_job_is_named_by_itself(
    pool: TaskPool, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def stray() -> None:
        await asyncio.sleep(0.1)  # the job runs in that time
        time.sleep(HOLD_S)  # noqa: ASYNC251 - the misdeed under test

    async def innocent() -> None:
        await asyncio.sleep(HOLD_S)

    pool.loop.call_soon_threadsafe(lambda: pool.loop.create_task(stray(), name="stray"))
    run(innocent)
    assert "asyncio task 'stray' has blocked the event loop" in caplog.text
    assert "unit.innocent" not in caplog.text


def test_a_job_that_waits_for_a_child_process_is_named(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def shells_out() -> None:
        # While it reads both pipes, it is in the standard library's `selectors`, like an idle loop.
        command = [sys.executable, "-S", "-c", f"import time; time.sleep({HOLD_S})"]
        subprocess.run(command, check=True, capture_output=True)  # noqa: ASYNC221 - the misdeed under test

    task_id = run(shells_out)
    assert f"task unit.shells_out[{task_id}] has blocked the event loop" in caplog.text


def test_a_job_is_named_although_its_file_is_called_as_one_of_the_loops(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    names: dict[str, Any] = {}
    source = f"import time\nasync def crawl():\n    time.sleep({HOLD_S})\n"
    exec(compile(source, "/shop/selectors.py", "exec"), names)  # noqa: S102 - a file of that name
    task_id = run(names["crawl"])
    assert f"task unit.crawl[{task_id}] has blocked the event loop" in caplog.text


def test_a_loop_that_only_waits_is_not_reported(
    pool: TaskPool, caplog: pytest.LogCaptureFixture
) -> None:
    # As on a machine that leaves it no CPU time to answer.
    assert pool._watchdog is not None
    with caplog.at_level(logging.WARNING):
        pool._watchdog._answered.clear()
        pool._watchdog._report(time.monotonic())
    assert "has blocked the event loop" not in caplog.text


def test_a_job_that_blocks_the_loop_from_its_first_step_is_accepted_meanwhile(
    pool: TaskPool,
) -> None:
    accepted, ended, hub = threading.Event(), Future[Any](), Hub()
    pool.register_with_event_loop(hub)

    @pool.app.task(shared=False)
    async def blocks() -> bool:
        return accepted.wait(10)

    request = {"id": "1", "task": blocks.name, "delivery_info": {}, "properties": {}}
    pool.apply_async(
        trace_task_ret,
        (blocks.name, "1", request, ((), {}, {}), None, None),
        accept_callback=lambda *_: accepted.set(),
        callback=ended.set_result,
    )
    while not ended.done():
        hub.run_once()
    assert ended.result()[1] == "True"
    pool.stop()
    hub.close()


def test_a_loop_that_reads_its_own_wake_up_is_not_reported() -> None:
    """A machine without free CPU time may stop it just there."""
    own_calls = list[bool]()

    def recv(_: int) -> bytes:
        own_calls.append(watchdog._is_loops_own(sys._getframe(1)))
        return b""

    waking = SimpleNamespace(_ssock=SimpleNamespace(recv=recv))
    asyncio.SelectorEventLoop._read_from_self(waking)  # type: ignore[attr-defined]
    assert own_calls == [True]
