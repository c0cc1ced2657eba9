"""Waits for many jobs to end, with one command at a time."""

import asyncio
from typing import Any, Final

from redis.exceptions import RedisError

from keywheel_client.connection import Names, redis_errors
from keywheel_client.errors import Unavailable, UnreadableRecord
from keywheel_client.status import Status, status_of

_PAUSE_S: Final = 0.05


class Endings:
    """Reads the records of all awaited jobs together.

    Args:
        redis: An asyncio client of the result store that decodes responses to text.
    """

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self._waiting: dict[str, set[asyncio.Future[Status]]] = {}
        self._looking: asyncio.Task[None] | None = None

    async def wait(self, job: str) -> Status:
        """Wait for the end of a job, also while Redis is away."""
        future: asyncio.Future[Status] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(job, set()).add(future)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
            self._looking.add_done_callback(self._pass_on)
        try:
            return await future
        finally:
            others = self._waiting.get(job, set())
            others.discard(future)
            if not others:
                self._waiting.pop(job, None)

    async def _look(self) -> None:
        while self._waiting:
            jobs = list(self._waiting)
            try:
                records = await self._redis.mget([Names.result(job) for job in jobs])
            except RedisError:
                records = [None] * len(jobs)  # `result` reports the error when its time is over
            except UnicodeDecodeError:  # one record is not text, so each is read alone
                records = [await self._alone(job) for job in jobs]
            for job, stored in zip(jobs, records, strict=True):
                self._note(job, stored)
            await asyncio.sleep(_PAUSE_S)

    async def _alone(self, job: str) -> str | None:
        stored: str | None = None
        try:
            with redis_errors():
                stored = await self._redis.get(Names.result(job))
        except UnreadableRecord as exc:
            self._fail(job, exc)
        except Unavailable:
            pass  # `result` reports the error when its time is over
        return stored

    def _fail(self, job: str, exc: Exception) -> None:
        for future in self._waiting.pop(job, set()):
            future.set_exception(exc)

    def _pass_on(self, looking: "asyncio.Task[None]") -> None:
        """End all waits if the reading task was ended by an error, or by `close`."""
        error = None if looking.cancelled() else looking.exception()
        if error is None and not looking.cancelled():
            return
        for future in set().union(*self._waiting.values()):
            if error is None:
                future.cancel()
            else:
                future.set_exception(error)

    def _note(self, job: str, stored: str | None) -> None:
        try:
            status = status_of(stored)
        except UnreadableRecord as exc:
            self._fail(job, exc)
            return
        if status.is_ended:
            for future in self._waiting.pop(job, set()):
                future.set_result(status)

    async def close(self) -> None:
        """Stop reading records. A second call does nothing."""
        looking, self._looking = self._looking, None
        while looking is not None and not looking.done():
            # Cancel until the task ends: before Python 3.12, redis-py may swallow a cancellation
            # while it sends.
            looking.cancel()
            await asyncio.wait({looking}, timeout=_PAUSE_S)
