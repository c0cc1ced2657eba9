"""How the loop of the asyncio pool ends."""

import asyncio
import threading

import pytest

from worker.aio.loop_thread import LoopThread, new_loop


@pytest.mark.parametrize("flavour", ["asyncio", "auto"])
def test_what_runs_when_the_loop_is_stopped_may_clean_up(flavour: str) -> None:
    started, cleaned = threading.Event(), []

    async def left() -> None:
        try:
            started.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # as a connection that closes
            cleaned.append("task")

    thread = LoopThread(new_loop(flavour), prepare=lambda: None)
    thread.start()
    asyncio.run_coroutine_threadsafe(left(), thread.loop)
    assert started.wait(10)
    assert thread.stop(patience_s=10)
    assert cleaned == ["task"]
    assert thread.stop(patience_s=10)
