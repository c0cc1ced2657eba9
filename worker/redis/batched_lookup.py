"""Looks jobs up in Redis (is there a letter, a cancel?), for all that ask at one time in one round trip."""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol


class Kept(Protocol):
    """Where the records are."""

    async def present(self, ids: Sequence[str]) -> set[str]:
        """Those of these jobs that have a record."""
        ...


class Roll:
    """Asks for one job after the other, or for many at once where they come while an answer is on its way.

    On one event loop only.

    Args:
        store: Where the records are.
    """

    def __init__(self, store: Kept) -> None:
        self._store: Final = store
        self._turn: Final = asyncio.Lock()
        self._ids: list[str] = []
        self._asking: asyncio.Task[set[str]] | None = None

    async def has(self, job: str) -> bool:
        """Whether a job has a record.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        if self._asking is None:
            self._ids = []
            self._asking = asyncio.create_task(self._ask(self._ids))
        asking = self._asking
        self._ids.append(job)
        return job in await asyncio.shield(asking)  # who is stopped does not stop the others

    async def _ask(self, ids: list[str]) -> set[str]:
        async with self._turn:
            self._asking = None
            return await self._store.present(ids)
