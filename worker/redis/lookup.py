"""Finds out in one round trip which of many jobs have a record in Redis."""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol


class Records(Protocol):
    """A store that knows which jobs have a record."""

    async def present(self, ids: Sequence[str]) -> set[str]:
        """Return those of the ids that have a record."""
        ...


class BatchedLookup:
    """Looks up jobs. All jobs that ask during a lookup share the next one.

    It serves one event loop only.

    Args:
        store: The store to ask.
    """

    def __init__(self, store: Records) -> None:
        self._store: Final = store
        self._turn: Final = asyncio.Lock()
        self._ids: list[str] = []
        self._lookup: asyncio.Task[set[str]] | None = None

    async def has(self, job: str) -> bool:
        """Return whether a job has a record.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        # A caller that is cancelled must not cancel the lookup of the others.
        return job in await asyncio.shield(self.begin(job))

    def begin(self, job: str) -> "asyncio.Task[set[str]]":
        """Look a job up in the next turn of the loop; the task returns the ids with a record.

        Many jobs share the task, so await it through `asyncio.shield`.
        """
        if self._lookup is None:
            self._ids = []
            self._lookup = asyncio.create_task(self._ask(self._ids))
            self._lookup.add_done_callback(_retrieve)
        self._ids.append(job)
        return self._lookup

    async def _ask(self, ids: list[str]) -> set[str]:
        async with self._turn:
            self._lookup = None
            return await self._store.present(ids)


def _retrieve(lookup: "asyncio.Task[set[str]]") -> None:
    """Retrieve the task's error: asyncio would log it if no job awaits the task any more."""
    if not lookup.cancelled():
        lookup.exception()
