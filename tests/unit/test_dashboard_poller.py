"""The poller's loop ends when it is told to."""

import asyncio
from typing import Any

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
