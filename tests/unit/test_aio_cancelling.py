"""A cancelled task ends, even if it ignores the first cancels."""

import asyncio
import gc

import pytest

from worker.aio import cancelling, lifespan
from worker.aio.cancelling import cancel_until_ended


async def swallow_cancels(times: int, error: Exception | None = None) -> None:
    """Ignore `times` cancels."""
    cancels = 0
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancels += 1
            if cancels > times:
                if error:
                    raise error from None
                raise


async def begun(*tasks: "asyncio.Task[None]") -> tuple["asyncio.Task[None]", ...]:
    await asyncio.sleep(0)
    return tasks


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancelling, "CANCEL_INTERVAL_S", 0.01)


async def test_tasks_that_swallow_a_cancel_are_cancelled_again() -> None:
    tasks = await begun(
        asyncio.create_task(swallow_cancels(0)),
        asyncio.create_task(swallow_cancels(3)),
        asyncio.create_task(swallow_cancels(1, ValueError("at its end"))),
    )
    await cancel_until_ended(tasks)
    assert [task.done() for task in tasks] == [True] * 3


async def test_without_tasks_nothing_is_waited_for() -> None:
    await cancel_until_ended([])


async def test_a_task_that_never_ends_is_left_when_the_time_is_over() -> None:
    [task] = await begun(asyncio.create_task(swallow_cancels(1_000_000)))
    await cancel_until_ended([task], within_s=0.05)
    assert not task.done()
    task.get_coro().close()  # type: ignore[union-attr]


async def test_a_background_task_of_the_pool_that_swallows_a_cancel_ends_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [task] = await begun(asyncio.create_task(swallow_cancels(1)))
    monkeypatch.setattr(lifespan, "_background", {task})
    monkeypatch.setattr(lifespan, "_shutdowns", [])
    await lifespan.end(patience_s=5)
    assert task.cancelled()


async def test_the_errors_of_cancelled_tasks_are_not_reported_to_the_loop() -> None:
    cancels: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, of: cancels.append(of["message"]))
    for task in [await begun(asyncio.create_task(swallow_cancels(0, ValueError("its own"))))]:
        await cancel_until_ended(task)
    del task
    await asyncio.sleep(0)
    gc.collect()
    assert cancels == []
