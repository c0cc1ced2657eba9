"""Joins the commands of many jobs into pipelines over one connection."""

import asyncio
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from contextvars import Context
from functools import partial
from itertools import islice, repeat
from typing import Any, Final
from weakref import WeakKeyDictionary

import hiredis
import redis
import redis.asyncio

from worker.aio import lifespan
from worker.aio.lua_source import source
from worker.aio.redis_retry import is_replica_error, safe_message
from worker.aio.shared_connection import Link, SharedConnection

Command = tuple[Any, ...]

_Run = tuple[Sequence[Command], "asyncio.Future[list[Any]]"]
_Store = tuple[Any, Any, int, "asyncio.Future[Any]"]
_Entry = tuple[Sequence[Command], Callable[[list[Any]], None]]
"""Commands, and the function that takes their replies."""

STORES: Final = 100
"""The most results that one script stores; they take a millisecond of the server's time."""
_STORE: Final = source("worker.aio", "store")


class Pipelining:
    """A queue of commands, which run in batches, one batch at a time.

    A batch has the commands of one turn of the loop, or the commands that came during the batch
    before it.

    Args:
        client: The client whose connection the batches use.
    """

    def __init__(self, client: "redis.asyncio.Redis") -> None:
        self._client = client
        self._connection = SharedConnection(client)
        retry = client.get_retry()
        self._repeats = retry.get_retries() if retry is not None else 0
        self._to_run: list[_Run] = []
        self._to_store: list[_Store] = []
        self._running: asyncio.Task[None] | None = None

    def run(self, commands: Sequence[Command]) -> "asyncio.Future[list[Any]]":
        """Run commands one directly after the other, but not as a transaction.

        Returns:
            The replies. The future fails with the error of the first command that the server
            rejected, or with the connection's error.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[Any]] = loop.create_future()
        self._to_run.append((commands, future))
        self._wake(loop)
        return future

    def store(self, key: Any, value: Any, expires_s: int) -> "asyncio.Future[Any]":
        """Store and publish a value unless its key is set.

        Returns:
            The value that the key had, or None. The future fails with the same errors as in `run`.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._to_store.append((key, value, expires_s, future))
        self._wake(loop)
        return future

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._running is None:
            # In an empty context, because the batch does not belong to a job.
            self._running = loop.create_task(self._run(), context=Context())

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()

    async def _run(self) -> None:
        try:
            while self._to_run or self._to_store:
                runs, self._to_run = self._to_run, []
                stores, self._to_store = self._to_store, []
                parts = [stores[at : at + STORES] for at in range(0, len(stores), STORES)]
                await self._run_batch(
                    [(commands, partial(_settle_run, future)) for commands, future in runs]
                    + [([store_command(part)], partial(_settle_stores, part)) for part in parts]
                )
        finally:
            self._running = None

    async def _run_batch(self, batch: Sequence[_Entry]) -> None:
        replies: Iterator[Any]
        try:
            replies = iter(await self._execute([command for own, _ in batch for command in own]))
        except Exception as exc:  # noqa: BLE001 - each caller decides whether to try again
            replies = repeat(exc)
        for own, settle in batch:
            settle(list(islice(replies, len(own))))

    async def _execute(self, commands: list[Command]) -> list[Any]:
        """Run commands in one round trip; errors of the server are among the replies.

        If the connection is lost, the commands are repeated as often as the client's retry allows.

        Raises:
            redis.RedisError: The server cannot be reached.
        """
        packed = [hiredis.pack_command(command) for command in commands]
        link = await self._connection.link()
        for _ in range(self._repeats):
            try:
                return await _exchange(link, packed)
            except (redis.ConnectionError, redis.TimeoutError):
                link = await self._connection.link()
        return await _exchange(link, packed)


async def _exchange(link: Link, packed: list[bytes]) -> list[Any]:
    sent = [link.send(command) for command in packed]
    with suppress(redis.RedisError):
        await sent[-1]  # replies come in the order of the commands
    replies = [command.exception() or command.result() for command in sent]
    for error in [reply for reply in replies if isinstance(reply, Exception)]:
        if is_replica_error(error):
            raise redis.ConnectionError(f"this Redis is a replica now ({safe_message(error)})")
        if not isinstance(error, redis.ResponseError):
            raise error
    if any(map(_is_of_replica, replies)):
        link.leave()
    return replies


def _is_of_replica(reply: Any) -> bool:
    """Whether a script's reply contains a replica's error, which the connection does not notice."""
    return isinstance(reply, list) and any(
        isinstance(part, Exception) and is_replica_error(part) for part in reply
    )


def store_command(stores: Sequence[tuple[Any, ...]]) -> Command:
    """Make the command that stores and publishes values whose keys are not set.

    Args:
        stores: Tuples that begin with the key, the value and the value's expiry in seconds.
    """
    arguments = [argument for store in stores for argument in store[1:3]]
    return ("EVAL", _STORE, len(stores), *(key for key, *_ in stores), *arguments)


def _settle_run(future: "asyncio.Future[Any]", replies: list[Any]) -> None:
    error = next((reply for reply in replies if isinstance(reply, Exception)), None)
    _settle(future, replies, error)


def _settle_stores(stores: list[_Store], replies: list[Any]) -> None:
    [reply] = replies
    error = reply if isinstance(reply, Exception) else None
    known = {} if error else dict(zip(reply[::2], reply[1::2], strict=True))
    for number, (*_, future) in enumerate(stores):
        before = error or known.get(number)
        _settle(future, before, before if isinstance(before, Exception) else None)


def _settle(future: "asyncio.Future[Any]", reply: Any, error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(reply)
    else:
        future.set_exception(error)


_by_loop: "WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, Pipelining]]" = (
    WeakKeyDictionary()
)


def pipelining_of(key: Hashable, make_client: "Callable[[], redis.asyncio.Redis]") -> Pipelining:
    """Return the running loop's pipelining for a server, created at first use."""
    known = _by_loop.setdefault(asyncio.get_running_loop(), {})
    if key not in known:
        known[key] = Pipelining(make_client())
        lifespan.on_shutdown(known[key].close)
    return known[key]
