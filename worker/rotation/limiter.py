"""A turnstile: few jobs do a thing at once, the others stand in line, in the order of their coming.

It stands before the wire: a call takes several turns of the event loop to leave, and among hundreds
of others it would leave so late that its key may have been told to rest since.
"""

import asyncio
from weakref import WeakValueDictionary

WIDTH = 8
"""Jobs of one lane that are let through at once, in this process.

Enough to keep the round trips overlapping.
"""


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

    async def take(self, lane: str) -> Place:
        """Take one of the lane's places; waits until one is free.

        Args:
            lane: Which line to stand in.
        """
        places = self._lanes.get(lane)
        if places is None:
            places = self._lanes[lane] = asyncio.Semaphore(self._width)
        await places.acquire()
        return Place(places)
