"""A turnstile before the key pool: few jobs ask at once, the others stand in line.

Without it, every job that finds no room would ask Redis again and again, and those that have a key would get their turn
on the event loop late: their call could leave after the key was told to rest.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

WIDTH = 8
"""Jobs of one model that ask at once, in this process: enough to keep the round trips overlapping."""


class Turnstile:
    """Lets a few jobs a lane through at once, in the order of their coming. A lane is a model, or a pinned account."""

    def __init__(self, width: int = WIDTH) -> None:
        self._width = width
        self._lanes: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def enter(self, lane: str, *, wait_ms: int) -> AsyncIterator[None]:
        """Hold one of the lane's places for the block.

        Args:
            lane: Which line to stand in; one lane never waits for another.
            wait_ms: The longest wait for a place, in milliseconds.

        Raises:
            TimeoutError: No place became free in time.
        """
        places = self._lanes.get(lane)
        if places is None:
            places = self._lanes[lane] = asyncio.Semaphore(self._width)
        if places.locked():
            async with asyncio.timeout(wait_ms / 1000):
                await places.acquire()
        else:
            await places.acquire()
        try:
            yield
        finally:
            places.release()

    def room(self) -> None:
        """Tell who waits for room that a call has ended."""
        self._freed.set()
        self._freed = asyncio.Event()

    async def wait_for_room(self, *, wait_ms: int) -> None:
        """Wait until a call of this process ends, or for a time, in milliseconds: another process may make room too."""
        freed = self._freed
        try:
            async with asyncio.timeout(wait_ms / 1000):
                await freed.wait()
        except TimeoutError:
            return
