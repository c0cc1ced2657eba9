"""The watchdog names once the task that blocks the event loop."""

import asyncio
import logging
import threading

import pytest
from celery import Celery
from kombu.asynchronous import Hub

from tests.unit.aio_pool.pool_outcome import Outcome, Start


class Warned(logging.Handler):
    """Sets an event at the first warning."""

    def __init__(self) -> None:
        super().__init__()
        self.event = threading.Event()
        self.words: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.words.append(record.getMessage())
        self.event.set()


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> Warned:
    handler, logger = Warned(), logging.getLogger("worker.aio.watchdog")
    monkeypatch.setattr(logger, "handlers", [handler])
    return handler


@pytest.mark.parametrize("blocker", ["a job", "its child", "a stranger", "a callback"])
def test_the_function_or_task_that_blocks_the_loop_is_named_once(
    app: Celery, start: Start, warned: Warned, blocker: str
) -> None:
    async def stranger() -> None:
        warned.event.wait(20)

    @app.task(shared=False, name="shop.blocks")
    async def blocks() -> None:
        if blocker == "a job":
            warned.event.wait(20)
        elif blocker == "its child":
            await asyncio.create_task(stranger(), name="child")
        else:
            await gate.wait()

    gate = asyncio.Event()
    pool, hub = start(aio_blocked_ms=20), Hub()
    pool.register_with_event_loop(hub)  # the hub does not turn
    job = Outcome(pool, blocks)
    if blocker == "a callback":
        pool.loop.call_soon_threadsafe(warned.event.wait, 20)
    elif blocker == "a stranger":
        pool.loop.call_soon_threadsafe(lambda: pool.loop.create_task(stranger(), name="other"))
    assert warned.event.wait(20)
    pool.loop.call_soon_threadsafe(gate.set)
    names = {"a stranger": "asyncio task 'other'", "a callback": "a callback"}
    name = names.get(blocker, f"task shop.blocks[{job.id}]")
    [words] = warned.words
    assert words.startswith(f"{name} has blocked the event loop for more than ")
    assert ("warned.event.wait(20)" in words) is (blocker != "a callback")
    pool.stop()
    assert job.accepted.done()
    hub.close()


@pytest.mark.parametrize("blocked_ms", [0, 250])
def test_the_threads_of_a_pool_keep_no_process_alive(start: Start, blocked_ms: float) -> None:
    before = set(threading.enumerate())
    pool = start(aio_blocked_ms=blocked_ms)
    pool.task_threads.submit(int).result(10)
    ours = {thread.name: thread.daemon for thread in set(threading.enumerate()) - before}
    watchdog = {"aio-watchdog": True} if blocked_ms else {}
    assert ours == {"aio-loop": True, "aio-task-1": True} | watchdog
