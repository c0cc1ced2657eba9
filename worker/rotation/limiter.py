"""Limits how many tasks hold a slot of a key at once; the others wait in order of arrival.

The rotation takes a slot before it writes a request. A request needs several turns of the event
loop to leave. Behind hundreds of other requests it would leave so late that its key may have been
limited meanwhile.
"""

import asyncio
from weakref import WeakValueDictionary

SLOTS = 8
"""How many tasks may hold a slot of one key at once in this process.

That is enough for their round trips to overlap.
"""


class Slot:
    """A slot of a key, to be released when the limited work is done."""

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots: asyncio.Semaphore | None = slots

    def release(self) -> None:
        """Let the next task in. A second call does nothing."""
        slots, self._slots = self._slots, None
        if slots is not None:
            slots.release()


class KeyedLimiter:
    """Limits for each key separately how many tasks hold a slot at once."""

    def __init__(self, slots: int = SLOTS) -> None:
        self._slots = slots
        self._limiters: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def acquire(self, key: str) -> Slot:
        """Take a slot, after waiting until one is free.

        Args:
            key: The key that the slots are counted for; not an API key.
        """
        limiter = self._limiters.get(key)
        if limiter is None:
            limiter = self._limiters[key] = asyncio.Semaphore(self._slots)
        await limiter.acquire()
        return Slot(limiter)
