"""Turnstiles: few jobs do a thing at once, the others stand in line, in the order of their coming.

One stands before the key pool: without it, every job that finds no room would ask Redis again and again. Another stands
before the wire: a call takes several turns of the event loop to leave, and among hundreds of others it would leave so
late that its key may have been told to rest since.
"""

import asyncio
from weakref import WeakValueDictionary

WIDTH = 8
"""Jobs of one lane that are let through at once, in this process: enough to keep the round trips overlapping."""


class Place:
    """A place in a turnstile, to be left when the thing is done."""

    def __init__(self, places: asyncio.Semaphore) -> None:
        self._places: asyncio.Semaphore | None = places

    def leave(self) -> None:
        """Let the next one in. A second call does nothing."""
        places, self._places = self._places, None
        if places is not None:
            places.release()


class Turnstile:
    """Lets a few jobs a lane through at once. One lane never waits for another."""

    def __init__(self, width: int = WIDTH) -> None:
        self._width = width
        self._lanes: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._freed = asyncio.Event()

    async def take(self, lane: str, *, wait_ms: int | None = None) -> Place:
        """Take one of the lane's places.

        Args:
            lane: Which line to stand in.
            wait_ms: The longest wait for a place, in milliseconds; None: however long it takes.

        Raises:
            TimeoutError: No place became free in time.
        """
        places = self._lanes.get(lane)
        if places is None:
            places = self._lanes[lane] = asyncio.Semaphore(self._width)
        if places.locked():
            async with asyncio.timeout(None if wait_ms is None else wait_ms / 1000):
                await places.acquire()
        else:
            await places.acquire()
        return Place(places)

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
