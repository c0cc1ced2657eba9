"""The pool's reports about its jobs: when they come, and on which thread.

The pool runs in this process, without a consumer.
"""

import asyncio
import threading
import time
from concurrent.futures import Future
from types import SimpleNamespace

from celery import Celery
from celery.worker.control import Panel
from kombu.asynchronous import Hub

from tests.unit.aio_pool.pool_outcome import Outcome, Start, settled
from worker.aio.transport import unacked


def test_without_a_hub_the_callbacks_run_where_they_are_posted(app: Celery, start: Start) -> None:
    @app.task(shared=False)
    async def double(x: int) -> int:
        return 2 * x

    done = Outcome(start(), double, 4)
    assert done.answer[:2] == (0, "8")
    assert done.accepted.result(60) == done.job.pid
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
    hub.reset()  # as after a lost connection
    pool.register_with_event_loop(hub)
    again = Outcome(pool, double, 1)
    while not again.ended.done() and time.monotonic() < deadline:
        hub.run_once()
    assert again.answer[1] == "2"
    pool.stop()
    hub.close()


def test_remote_control_sees_a_job_that_has_just_begun(app: Celery, start: Start) -> None:
    begun = threading.Event()

    @app.task(shared=False)
    async def begin() -> None:
        begun.set()
        await asyncio.Event().wait()

    stock, pool, hub = Panel.data["revoke"], start(), Hub()
    pool.register_with_event_loop(hub)
    job = Outcome(pool, begin)
    assert begun.wait(10)
    assert not job.accepted.done()
    assert (
        Panel.data["active"](SimpleNamespace(tset=set)) == []
    )  # its requests are not of Celery's class
    assert job.accepted.done()
    pool.terminate()
    hub.close()
    assert Panel.data["revoke"] is stock


def test_another_thread_may_ask_which_jobs_run_on_and_reads_no_reports(
    app: Celery, start: Start
) -> None:
    @app.task(shared=False)
    async def nothing() -> None: ...

    pool, hub = start(), Hub()
    pool.register_with_event_loop(hub)
    done = Outcome(pool, nothing)
    assert settled(pool, running=0, queued=0)
    stranger = threading.Thread(target=unacked.of_process.tags_that_run_on, args=((),))
    stranger.start()
    stranger.join()
    assert not done.ended.done()
    pool.calls.drain()
    assert done.ended.done()
    hub.close()


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
    assert settled(pool, running=0, queued=0)
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
    waiting = [Outcome(pool, stubborn) for _ in range(2)]
    waiting[0].accepted.result(10)
    assert settled(pool, running=2, queued=1)
    assert pool.unsettled == 1
    pool.loop.call_soon_threadsafe(gate.set)
    for each in waiting:
        assert each.answer[0] == 0
    assert settled(pool, running=0, queued=0)
    assert pool.unsettled == 0
