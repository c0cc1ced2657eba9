"""A cancellation at any time reaches a task that waits with `asyncio.wait_for`."""

import asyncio
import sys

import pytest

from worker.aio import waits
from worker.aio.loop_thread import LoopThread, new_loop


async def is_swallowed(turns: int) -> bool:
    """Cancel a task `turns` turns of the loop after the event that it waits for is set."""
    done = asyncio.Event()

    async def work() -> None:
        await asyncio.wait_for(done.wait(), 60)
        await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    done.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    for _ in range(10):
        await asyncio.sleep(0)
    if task.done():
        return False
    task.cancel()
    return True


@pytest.mark.parametrize("flavour", ["asyncio", "auto"])
def test_no_job_of_the_pool_loses_a_cancellation_in_a_wait(flavour: str) -> None:
    thread = LoopThread(new_loop(flavour), prepare=lambda: None)
    thread.start()
    lost = [
        turns
        for turns in range(6)
        if asyncio.run_coroutine_threadsafe(is_swallowed(turns), thread.loop).result(10)
    ]
    assert thread.stop(patience_s=10)
    assert not lost
    assert asyncio.wait_for is waits._OF_PYTHON, (
        "in a process without the pool, asyncio's own function stays"
    )


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="from Python 3.12 on, it is mended")
async def test_python_3_11_swallows_a_cancellation_without_the_pool() -> None:
    assert any([await is_swallowed(turns) for turns in range(6)])


async def test_a_wait_ends_in_time_with_its_result_or_its_error() -> None:
    async def fails() -> None:
        raise ValueError("its own")

    with waits.cancellable():
        assert await asyncio.wait_for(asyncio.sleep(0, "value"), 60) == "value"
        assert await asyncio.wait_for(asyncio.sleep(0, "value"), None) == "value"
        for timeout_s in (0, 1e-9):
            waiting = asyncio.ensure_future(asyncio.Event().wait())
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(waiting, timeout_s)
            assert waiting.cancelled()
        with pytest.raises(ValueError, match="its own"):
            await asyncio.wait_for(fails(), 60)
