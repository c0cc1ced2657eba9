"""Counts the usage of one process's calls, and writes the counts to Redis every few seconds."""

import asyncio
import os
from collections.abc import Mapping
from contextvars import Context
from typing import Final

from redis.exceptions import RedisError

from worker.aio.redis_retry import safe_message, warn
from worker.usage.series import MEASURES, Counts, Series
from worker.usage.store import UsageStore

EVERY_S: Final = 5.0
"""The time between two writes, in seconds. A killed process loses its counts since the last one."""

_CLOSE_WITHIN_S = 2.0
_MOST_SERIES = 1_000
_AT: Final[Mapping[str, int]] = {name: number for number, name in enumerate(MEASURES)}


class UsageCounter:
    """Counts the usage of one process's calls.

    Counting takes a few microseconds a call and sends no command. One command every few seconds
    writes all counts; a process without calls writes nothing.

    Args:
        store: The store to write to; None to count nothing.
        every_s: The time between two writes, in seconds.
    """

    def __init__(self, store: UsageStore | None, *, every_s: float = EVERY_S) -> None:
        self._store: Final = store
        self._every_s: Final = every_s
        self._writer: Final = os.urandom(8).hex()
        self._number = 1
        self._new: dict[Series, list[int]] = {}
        self._sent: dict[Series, Counts] = {}
        """The counts that were sent, and that Redis has not confirmed."""
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()

    def count(self, series: Series, **counts: int) -> None:
        """Add to the counts of a series. Returns at once, and raises nothing.

        Args:
            series: The series.
            **counts: The numbers to add, by the names of the measures.
        """
        if self._store is None:
            return
        found = self._new.get(series)
        if found is None:
            if len(self._new) >= _MOST_SERIES:  # jobs may name any number of models
                series = series.others
            found = self._new.setdefault(series, [0] * len(MEASURES))
        for name, count in counts.items():
            found[_AT[name]] += count
        if self._task is None or self._task.done():
            # The task gets a context of its own: it does not belong to the job that is counted now.
            self._task = asyncio.get_running_loop().create_task(
                self._keep_writing(self._store), context=Context()
            )

    async def close(self) -> None:
        """Write what is left, within two seconds."""
        self._hurry.set()
        task = self._task
        if task is not None and task.done() and self._store is not None:
            # When a program ends, its loop cancels all tasks, before anything is closed.
            task = asyncio.ensure_future(self._keep_writing(self._store))
        if task is not None:
            await asyncio.wait([task], timeout=_CLOSE_WITHIN_S)

    async def _keep_writing(self, store: UsageStore) -> None:
        while self._new or self._sent:
            try:
                async with asyncio.timeout(self._every_s):
                    await self._hurry.wait()
            except TimeoutError:
                pass
            is_written = await self._write(store)
            if self._hurry.is_set() and not is_written:
                return  # the process ends

    async def _write(self, store: UsageStore) -> bool:
        if not self._sent:
            self._sent = {series: tuple(counts) for series, counts in self._new.items()}
            self._new = {}
        try:
            await store.add(self._sent, writer=self._writer, number=self._number)
        except (RedisError, OSError) as exc:
            # Redis may have counted the report. It is sent again with the same number.
            warn(
                "cannot write the usage of the keys now (%s); keeping the counts", safe_message(exc)
            )
            return False
        self._number += 1
        self._sent = {}
        return True


NO_USAGE: Final = UsageCounter(None)
"""A counter that counts nothing."""
