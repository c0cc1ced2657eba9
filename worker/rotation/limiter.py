"""A capacity limiter for each of many keys.

A few tasks hold a slot of a key at once; the others wait in the order of their arrival.

Rotation uses it before a request is written: a request takes several turns of the event loop to
leave, and behind hundreds of others it would leave after its key may have been limited.
"""

import asyncio
from weakref import WeakValueDictionary

SLOTS = 8
"""How many tasks of one key may hold a slot at once in this process.

That is enough to keep their round trips overlapping.
"""


class Slot:
    """The right to go on, to be released when the work behind the limiter is done."""

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots: asyncio.Semaphore | None = slots

    def release(self) -> None:
        """Let the next task in. A second call does nothing."""
        slots, self._slots = self._slots, None
        if slots is not None:
            slots.release()


class KeyedLimiter:
    """Limits how many tasks go on at once, for each key by itself."""

    def __init__(self, slots: int = SLOTS) -> None:
        self._slots = slots
        self._limiters: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def acquire(self, key: str) -> Slot:
        """Take a slot; waits until one is free.

        Args:
            key: What the slots are counted for.
        """
        limiter = self._limiters.get(key)
        if limiter is None:
            limiter = self._limiters[key] = asyncio.Semaphore(self._slots)
        await limiter.acquire()
        return Slot(limiter)
