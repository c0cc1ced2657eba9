"""Joins the commands of many jobs into pipelines over one connection."""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from contextvars import Context
from typing import Any
from weakref import WeakKeyDictionary

import redis
import redis.asyncio

from worker.aio import lifespan

Command = tuple[Any, ...]

_STORES = 100
"""Results in one script at most: a millisecond of the server's time."""

_STORE = """
local found = {}
for at, key in ipairs(KEYS) do
  local value, expires = ARGV[2 * at - 1], tonumber(ARGV[2 * at])
  local written = expires > 0 and redis.pcall('SET', key, value, 'NX', 'EX', expires)
  if expires == 0 then written = redis.pcall('SET', key, value, 'NX') end
  local stored
  if not written then stored = redis.pcall('GET', key)
  elseif written.err then stored = written
  else redis.pcall('PUBLISH', key, value) end
  if stored then found[#found + 1], found[#found + 2] = at - 1, stored end
end
return found
"""
"""Stores and publishes each value whose key holds nothing.

KEYS: the keys. ARGV: for each the value and its expiry in seconds, 0 for never. Gives: the places,
counted from 0, of those that were there already, each followed by what is there, or by what the
server refused. Nearly every result is the first under its key, so this is one round trip for many;
the stock backend's are two for one, with a gap between them.
"""


class Pipelining:
    """Runs commands in batches.

    All that were asked for in one turn of the loop, then all that came while that ran.

    Args:
        client: Its connection is used by one batch at a time.
    """

    def __init__(self, client: "redis.asyncio.Redis") -> None:
        self._client = client
        self._connection: Any = None
        self._asked: list[tuple[Sequence[Command], asyncio.Future[list[Any]]]] = []
        self._to_store: list[tuple[Any, Any, int, asyncio.Future[Any]]] = []
        self._running: asyncio.Task[None] | None = None

    def run(self, commands: Sequence[Command]) -> "asyncio.Future[list[Any]]":
        """Run commands, next to each other but not as a transaction.

        Returns:
            The answers. The future fails with the first command that the server refused, or with
            the connection's error.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Any]] = loop.create_future()
        self._asked.append((commands, future))
        self._wake(loop)
        return future

    def store(self, key: Any, value: Any, expires_s: int) -> "asyncio.Future[Any]":
        """Store and publish a value unless its key holds one.

        Returns:
            What was there already, or nothing. The future fails as those of `run` do.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._to_store.append((key, value, expires_s, future))
        self._wake(loop)
        return future

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._running is None:
            # A context of its own: the batch belongs to no job.
            self._running = loop.create_task(self._run(), context=Context())

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()

    async def _run(self) -> None:
        try:
            while self._asked or self._to_store:
                batch, self._asked = self._asked, []
                stores, self._to_store = self._to_store, []
                await self._run_batch(
                    batch, [stores[at : at + _STORES] for at in range(0, len(stores), _STORES)]
                )
        finally:
            self._running = None

    async def _run_batch(
        self,
        batch: list[tuple[Sequence[Command], "asyncio.Future[list[Any]]"]],
        stores: list[list[tuple[Any, Any, int, "asyncio.Future[Any]"]]],
    ) -> None:
        together = [command for commands, _ in batch for command in commands]
        for part in stores:
            arguments = [
                argument for _, value, expires_s, _ in part for argument in (value, expires_s)
            ]
            together.append(("EVAL", _STORE, len(part), *(key for key, *_ in part), *arguments))
        try:
            answers = await self._execute(together)
        except Exception as exc:  # noqa: BLE001 - each asker decides whether to try again
            for future in [
                *(one[-1] for one in batch),
                *(one[-1] for part in stores for one in part),
            ]:
                _answer(future, None, exc)
            return
        at = 0
        for commands, future in batch:
            own = answers[at : at + len(commands)]
            at += len(commands)
            _answer(
                future, own, next((answer for answer in own if isinstance(answer, Exception)), None)
            )
        for part, answer in zip(stores, answers[at:], strict=True):
            failed = answer if isinstance(answer, Exception) else None
            found = {} if failed else dict(zip(answer[::2], answer[1::2], strict=True))
            for place, (*_, stored) in enumerate(part):
                there = failed or found.get(place)
                _answer(stored, there, there if isinstance(there, Exception) else None)

    async def _execute(self, commands: list[Command]) -> list[Any]:
        """Run commands in one round trip.

        What the server refuses stands in its place among the answers.

        redis-py's own pipeline takes its connection from the pool and gives it back each time, and
        costs twice this.

        Raises:
            redis.RedisError: The server cannot be reached. A connection that was closed is opened
                again, as the client says, and its commands are repeated.
        """
        connection = await self._connected()

        async def exchange() -> list[Any]:
            await connection.send_packed_command(connection.pack_commands(commands))
            answers: list[Any] = []
            for _ in commands:
                try:
                    answers.append(await connection.read_response())
                except redis.ResponseError as exc:
                    answers.append(exc)
            return answers

        try:
            answered: list[Any] = await connection.retry.call_with_retry(
                exchange, lambda _: connection.disconnect(nowait=True)
            )
        except BaseException:  # an answer may be on its way still, to whoever asks next
            await connection.disconnect(nowait=True)
            raise
        return answered

    async def _connected(self) -> Any:
        pool: Any = self._client.connection_pool
        connection = self._connection
        if connection is None:
            connection = self._connection = await pool.get_connection()
            return connection
        if connection.should_reconnect():  # its password has changed
            await connection.disconnect(nowait=True)
        await pool.ensure_connection(connection)
        return connection


def _answer(future: "asyncio.Future[Any]", answer: Any, refused: Exception | None) -> None:
    if future.done():
        return
    if refused is None:
        future.set_result(answer)
    else:
        future.set_exception(refused)


_by_loop: "WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, Pipelining]]" = (
    WeakKeyDictionary()
)


def pipelining_of(key: Hashable, make_client: "Callable[[], redis.asyncio.Redis]") -> Pipelining:
    """Give the running loop's pipelining for a server; made on first use, closed with the pool."""
    known = _by_loop.setdefault(asyncio.get_running_loop(), {})
    if key not in known:
        known[key] = Pipelining(make_client())
        lifespan.on_shutdown(known[key].close)
    return known[key]
