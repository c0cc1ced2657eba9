"""The poller's loop ends when it is told to."""

import asyncio
import threading
from typing import Any

import pytest
from celery import Celery

from config.settings import Settings
from worker.aio import cancelling
from worker.dashboard.poller import Poller


class Cancelled(Poller):
    """One that is cancelled in the moment in which a step of its loop is done."""

    loop: "asyncio.Task[None]"

    def __init__(self) -> None:
        self.steps = 0

    async def _reload_keys(self) -> None:
        self.steps += 1
        if self.steps == 1:
            asyncio.get_running_loop().call_soon(self.loop.cancel)

    async def _poll(self, *, fresh_s: float) -> Any:
        pass


async def test_no_moment_is_wrong_to_stop_the_poller() -> None:
    poller = Cancelled()
    poller.loop = asyncio.create_task(poller._keep_polling())
    await asyncio.wait([poller.loop], timeout=5)
    assert poller.loop.cancelled()


class Deaf(Poller):
    """One whose poll swallows a cancel, as redis-py does before Python 3.12 while it sends."""

    def __init__(self) -> None:
        super().__init__(Settings(), Celery("test", set_as_current=False))
        self._watch.poll = dict  # type: ignore[method-assign]
        self.polls = threading.Event()

    async def _poll(self, *, fresh_s: float) -> Any:  # noqa: ARG002
        self.polls.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            if task.cancelling() > 1:
                raise


def test_a_poller_that_has_not_heard_a_cancel_stops_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cancelling, "AGAIN_S", 0.01)
    poller = Deaf()
    poller.start()
    thread = poller._thread
    assert thread is not None
    assert poller.polls.wait(20)
    poller.stop()
    assert not thread.is_alive()
