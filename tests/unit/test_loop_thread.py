"""How the loop of the asyncio pool ends."""

import asyncio
import contextlib
import threading

import pytest

from worker.aio import cancelling
from worker.aio.loop_thread import LoopThread, new_loop


@pytest.mark.parametrize("flavour", ["asyncio", "auto"])
def test_a_task_that_runs_when_the_loop_stops_may_clean_up(flavour: str) -> None:
    started, cleaned = threading.Event(), []

    async def left() -> None:
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # as for a connection that closes
            cleaned.append("task")

    thread = LoopThread(new_loop(flavour), prepare=lambda: None)
    thread.start()
    asyncio.run_coroutine_threadsafe(left(), thread.loop)
    assert started.wait(10)
    assert thread.stop(patience_s=10)
    assert cleaned == ["task"]
    assert thread.stop(patience_s=10)


def test_a_task_that_swallows_a_cancel_may_clean_up_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cancelling, "CANCEL_INTERVAL_S", 0.01)
    started, cleaned = threading.Event(), list[str]()

    async def swallow_one_cancel() -> None:
        try:
            started.set()
            with contextlib.suppress(asyncio.CancelledError):  # like redis-py before Python 3.12
                await asyncio.Event().wait()
            await asyncio.Event().wait()
        finally:
            cleaned.append("task")

    thread = LoopThread(new_loop("asyncio"), prepare=lambda: None)
    thread.start()
    asyncio.run_coroutine_threadsafe(swallow_one_cancel(), thread.loop)
    assert started.wait(10)
    assert thread.stop(patience_s=10)
    assert cleaned == ["task"]
