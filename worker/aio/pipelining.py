"""Joins the commands of many jobs into pipelines over one connection."""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from contextvars import Context
from typing import Any
from weakref import WeakKeyDictionary

import redis.asyncio

from worker.aio import lifespan

Command = tuple[Any, ...]


class Pipelining:
    """Runs commands in batches: all that were asked for in one turn of the loop, then all that came while that ran.

    Args:
        client: Its connection is used by one batch at a time.
    """

    def __init__(self, client: "redis.asyncio.Redis") -> None:
        self._client = client
        self._asked: list[tuple[Sequence[Command], asyncio.Future[list[Any]]]] = []
        self._running: asyncio.Task[None] | None = None

    def run(self, commands: Sequence[Command]) -> "asyncio.Future[list[Any]]":
        """Run commands, next to each other but not as a transaction.

        Returns:
            The answers. The future fails with the first command that the server refused, or with the connection's
            error.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Any]] = loop.create_future()
        self._asked.append((commands, future))
        if self._running is None:
            # A context of its own: the batch belongs to no job.
            self._running = loop.create_task(self._run(), context=Context())
        return future

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()

    async def _run(self) -> None:
        try:
            while self._asked:
                batch, self._asked = self._asked, []
                await self._run_batch(batch)
        finally:
            self._running = None

    async def _run_batch(self, batch: list[tuple[Sequence[Command], "asyncio.Future[list[Any]]"]]) -> None:
        pipe = self._client.pipeline(transaction=False)
        for commands, _ in batch:
            for command in commands:
                pipe.execute_command(*command)
        try:
            answers = await pipe.execute(raise_on_error=False)
        except Exception as exc:  # noqa: BLE001 - each asker decides whether to try again
            for _, future in batch:
                if not future.done():
                    future.set_exception(exc)
            return
        at = 0
        for commands, future in batch:
            own = answers[at : at + len(commands)]
            at += len(commands)
            if future.done():
                continue
            refused = next((answer for answer in own if isinstance(answer, Exception)), None)
            if refused is None:
                future.set_result(own)
            else:
                future.set_exception(refused)


_by_loop: "WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, Pipelining]]" = WeakKeyDictionary()


def pipelining_of(key: Hashable, make_client: "Callable[[], redis.asyncio.Redis]") -> Pipelining:
    """Give the running loop's pipelining for a server; made on first use, closed with the pool."""
    known = _by_loop.setdefault(asyncio.get_running_loop(), {})
    if key not in known:
        known[key] = Pipelining(make_client())
        lifespan.on_shutdown(known[key].close)
    return known[key]
