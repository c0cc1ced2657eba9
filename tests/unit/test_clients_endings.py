"""A client that is closed stops looking for the ends of jobs."""

import asyncio
import contextlib

import pytest

from keywheel_client.endings import Endings


class Deaf:
    """A result store whose client swallows a cancel, as redis-py does before Python 3.12."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def mget(self, names: list[str]) -> list[None]:
        if not self.asked.is_set():
            self.asked.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        return [None] * len(names)


async def test_to_close_a_client_ends_the_waits_also_where_a_cancel_is_not_heard() -> None:
    store = Deaf()
    endings = Endings(store)
    waits = asyncio.create_task(endings.wait("job-1"))
    await store.asked.wait()
    async with asyncio.timeout(20):
        await endings.close()
    with pytest.raises(asyncio.CancelledError):
        await waits
    await endings.close()
