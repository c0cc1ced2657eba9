"""A client that is closed stops looking for the ends of jobs."""

import asyncio
import contextlib

import pytest

from keywheel_client.endings import Endings


class SwallowsCancel:
    """A result store whose client swallows a cancel, like redis-py before Python 3.12."""

    def __init__(self) -> None:
        self.is_asked = asyncio.Event()

    async def mget(self, names: list[str]) -> list[None]:
        if not self.is_asked.is_set():
            self.is_asked.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return [None] * len(names)


async def test_closing_a_client_ends_its_waits_though_the_result_store_swallows_a_cancel() -> None:
    store = SwallowsCancel()
    endings = Endings(store)
    waits = asyncio.create_task(endings.wait("job-1"))
    await store.is_asked.wait()
    async with asyncio.timeout(20):
        await endings.close()
    with pytest.raises(asyncio.CancelledError):
        await waits
    await endings.close()
