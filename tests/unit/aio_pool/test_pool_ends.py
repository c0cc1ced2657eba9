"""Lost connections, stops, and starts out of order: which jobs begin, end or go back."""

import asyncio
import threading
from concurrent.futures import Future
from contextlib import ExitStack

import pytest
from billiard.einfo import ExceptionInfo
from celery import Celery
from kombu.asynchronous import Hub

from tests.unit.aio_pool.pool_outcome import Outcome, Start, settled
from worker.aio import job as job_module
from worker.aio import revoking, shutdown
from worker.aio.errors import LostTooOften, Revoked
from worker.aio.lost_runs import LOST_RUNS
from worker.aio.pool import TaskPool, current_loop
from worker.aio.time_limits import HeldTimeLimits
from worker.aio.transport import unacked


def test_a_lost_connection_drops_waiting_jobs_and_spares_running_ones(
    app: Celery, start: Start
) -> None:
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
    assert settled(pool, running=0, queued=0)
    assert not second.accepted.done()


@pytest.mark.parametrize("cancels", [False, True])
def test_after_a_lost_connection_no_job_begins_and_ended_jobs_are_reported(
    app: Celery, start: Start, *, cancels: bool
) -> None:
    app.conf.worker_cancel_long_running_tasks_on_connection_loss = cancels
    gates = [asyncio.Event() for _ in range(2)]

    @app.task(shared=False)
    async def wait(number: int) -> None:
        await gates[number].wait()

    pool, hub = start(2), Hub()
    pool.register_with_event_loop(hub)  # the hub does not turn, so no posted call is read
    ended, running, waiting = (
        Outcome(pool, wait, number, tag=f"tag{number}") for number in (0, 1, 1)
    )
    assert settled(pool, running=2, queued=1)
    pool.loop.call_soon_threadsafe(gates[0].set)
    assert settled(pool, running=2, queued=0)  # the third job takes the slot
    late = Outcome(pool, wait, 0, tag="late")
    assert settled(pool, running=2, queued=1)
    assert not ended.ended.done()
    assert unacked.of_process.tags_that_run_on(("tag0", "tag1", "late")) == (
        set() if cancels else {"tag1"}
    )
    assert ended.ended.done()
    pool.loop.call_soon_threadsafe(gates[1].set)
    assert settled(pool, running=0, queued=0)
    pool.calls.drain()
    assert running.ended.done()
    assert waiting.ended.done()
    assert not late.accepted.done()
    hub.close()


def test_a_slot_that_becomes_free_while_the_pool_drains_goes_to_no_job(
    app: Celery, start: Start
) -> None:
    gate = asyncio.Event()

    @app.task(shared=False)
    async def wait() -> None:
        await gate.wait()

    pool = start(1)
    first, second = Outcome(pool, wait), Outcome(pool, wait)
    first.accepted.result(10)
    pool.jobs.draining = True  # waiting jobs are dropped a moment later
    pool.loop.call_soon_threadsafe(gate.set)
    first.ended.result(10)

    async def turns() -> None:
        for _ in range(20):  # the turns in which it would begin
            await asyncio.sleep(0)

    asyncio.run_coroutine_threadsafe(turns(), pool.loop).result(10)
    assert settled(pool, running=0, queued=1)
    pool.drain()
    assert settled(pool, running=0, queued=0)
    assert not second.accepted.done()


def test_a_job_whose_body_finds_it_revoked_ends_as_revoked_jobs_do_and_is_not_a_lost_run(
    app: Celery, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced: Future[None] = Future()
    monkeypatch.setattr(revoking, "announce", lambda _: announced.set_result(None))

    @app.task(shared=False)
    async def stop() -> None:
        raise Revoked

    pool = start(1)
    job = Outcome(pool, stop)
    announced.result(10)
    assert settled(pool, running=0, queued=0)
    assert not job.ended.done()


def test_a_job_terminated_while_it_waits_is_accepted_and_never_runs(
    app: Celery, start: Start
) -> None:
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


@pytest.mark.parametrize("kind", ["async", "plain"])
def test_a_job_that_has_lost_too_many_runs_is_accepted_and_never_runs(
    app: Celery, start: Start, kind: str
) -> None:
    ran = []

    @app.task(shared=False)
    async def never() -> None:
        ran.append("async")

    @app.task(shared=False)
    def never_either() -> None:
        ran.append("plain")

    pool = start(aio_lost_runs=2)
    job = Outcome(pool, never if kind == "async" else never_either, headers={LOST_RUNS: 2})
    assert job.answer.type is LostTooOften
    assert job.accepted.done()
    assert settled(pool, running=0, queued=0)
    assert ran == []


def test_a_cold_stop_gives_cancelled_jobs_the_time_that_was_set(
    app: Celery, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutdown, "_OVERRUN_S", 0.0)  # the time that a warm shutdown gives them
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


def test_all_jobs_that_run_can_be_cancelled_at_once(app: Celery, start: Start) -> None:
    @app.task(shared=False)
    async def wait() -> None:
        await asyncio.Event().wait()

    pool = start()
    for outcome in [Outcome(pool, wait) for _ in range(3)]:
        outcome.accepted.result(10)
    pool.cancel_all()
    assert settled(pool, running=0, queued=0)


def test_a_job_after_the_end_is_left_to_the_broker(
    app: Celery, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")

    @app.task(shared=False)
    async def double(x: int) -> int:
        return 2 * x

    pool = start()
    pool.close()
    late = Outcome(pool, double, 1)
    pool.stop()
    assert not late.accepted.done()
    assert "came while the pool ended; the broker delivers it again" in caplog.text


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


def test_a_channel_without_messages_of_running_jobs_drops_only_the_waiting_ones_it_holds(
    app: Celery, start: Start
) -> None:
    gate = asyncio.Event()

    @app.task(shared=False)
    async def wait() -> None:
        await gate.wait()

    pool = start(1)
    running, waiting = (Outcome(pool, wait, tag=tag) for tag in ("one", "two"))
    assert settled(pool, running=1, queued=1)
    assert unacked.of_process.tags_that_run_on({"of a job's own connection"}) == set()
    assert (
        unacked.of_process.tags_that_run_on({"two", "of the consumer as well"}) == set()
    )  # the first came by another connection
    assert settled(pool, running=1, queued=0)
    pool.loop.call_soon_threadsafe(gate.set)
    assert running.answer[0] == 0
    assert not waiting.accepted.done()


def test_no_limit_ends_a_job_that_only_redis_keeps_from_going_back(
    app: Celery, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"soft_timeout": 0.2, "timeout": 0.3}  # a busy machine may need a while to begin

    @app.task(shared=False)
    async def goes_back() -> str:
        with HeldTimeLimits():
            await asyncio.sleep(0.5)  # longer than the limits
        return "back"

    @app.task(shared=False)
    async def works() -> None:
        first, second = ExitStack(), ExitStack()  # two calls at once
        for call in (first, second):
            call.enter_context(HeldTimeLimits())
        first.close()
        second.close()
        await asyncio.Event().wait()

    @app.task(shared=False)
    async def works_on() -> None:
        with HeldTimeLimits():
            await asyncio.sleep(0.3)
        await asyncio.Event().wait()

    monkeypatch.setattr(job_module, "LIMIT_POSTPONED_S", 0.05)
    pool = start()
    back, worked = Outcome(pool, goes_back, **limits), Outcome(pool, works, **limits)
    late = Outcome(pool, works_on, soft_timeout=0.05, timeout=30)
    assert back.answer[:2] == (0, "'back'")
    assert (worked.answer[0], late.answer[0]) == (1, 1)
    assert (back.timeouts, worked.timeouts, late.timeouts) == ([], [True], [True])
    with HeldTimeLimits():
        pass  # outside a job
