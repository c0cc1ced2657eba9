"""One connection for the commands of all jobs, which leave as they come and are answered in the same order."""

import asyncio
from collections import deque
from contextvars import Context
from typing import Any, cast
from weakref import WeakKeyDictionary

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, ConnectionPool, DefaultParser
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import InvalidResponse
from redis.exceptions import TimeoutError as LateError

from worker.redis.resp import Word, Words, packed

_MORE = object()  # what has arrived is no whole answer
_TIMEOUT_S = 10.0  # where the client has none
_IDLE_S = 30.0  # after this a connection may be gone without a word, as behind a firewall


class Wire:
    """Sends commands as a client does, for a third of its price.

    Nobody waits until others have their answers.

    Nothing is sent twice: a command whose connection is lost before its answer may have run or not.
    A cancelled command runs all the same, and its answer is dropped. None may block the server, or
    the others would wait for it.

    Args:
        redis: A client that decodes responses to text. One of its connections is kept, and closed
            with it.
    """

    def __init__(self, redis: Redis) -> None:
        self._pool: ConnectionPool = redis.connection_pool
        self._timeout_s = float(self._pool.connection_kwargs.get("socket_timeout") or _TIMEOUT_S)
        self._connection: AbstractConnection | None = None
        self._line: _Line | None = None
        self._opening: asyncio.Task[_Line] | None = None

    async def send(self, *command: Word | Words) -> Any:
        """Send a command and wait for its answer.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached, is silent for too long, or refuses
                the command.
        """
        line = self._line
        if line is None or not line.fit():
            line = await self._opened()
        return await line.ask(packed(command))

    async def _opened(self) -> "_Line":
        """A new line, which all who come meanwhile share; and so they do its failure."""
        if self._opening is None:
            # It belongs to no job: who asked first may be cancelled.
            self._opening = asyncio.get_running_loop().create_task(self._open(), context=Context())
            self._opening.add_done_callback(self._open_ended)
        return await asyncio.shield(self._opening)

    def _open_ended(self, opening: "asyncio.Task[_Line]") -> None:
        self._opening = None
        if not opening.cancelled():
            opening.exception()  # or it would be called never retrieved where nobody waits any more

    async def _open(self) -> "_Line":
        connection, self._connection, self._line = self._connection, None, None
        if connection is None:
            connection = cast(AbstractConnection, await self._pool.get_connection())  # type: ignore[no-untyped-call]
        else:
            try:
                await connection.disconnect(nowait=True)
                await self._pool.ensure_connection(connection)
            except BaseException:
                await self._pool.release(connection)
                raise
        self._connection, self._line = connection, _Line(connection, self._timeout_s)
        return self._line


_WIRES: WeakKeyDictionary[Redis, Wire] = WeakKeyDictionary()


def wire_of(redis: Redis) -> Wire:
    """Give the one wire of a client: all who send by it share a connection."""
    wire = _WIRES.get(redis)
    if wire is None:
        wire = _WIRES[redis] = Wire(redis)
    return wire


class _Line(asyncio.Protocol):
    """Takes over a connection that the client has opened, with its password, database and TLS.

    Args:
        connection: One that nothing was asked on that is not answered.
        timeout_s: For how long the server may keep silent while something is asked, in seconds.
    """

    def __init__(self, connection: AbstractConnection, timeout_s: float) -> None:
        self._connection, self._timeout_s = connection, timeout_s
        self._loop = asyncio.get_running_loop()
        self._asked: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._leaving: list[bytes] = []
        self._heard_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._lost = False
        self._late = False
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse,
            replyError=DefaultParser.parse_error,
            encoding="utf-8",
            errors="replace",
            notEnoughData=_MORE,
        )
        # redis-py opens connections as streams, and gives no other access to them.
        self._transport = cast(asyncio.Transport, connection._writer.transport)  # type: ignore[union-attr]  # noqa: SLF001
        self._streams = self._transport.get_protocol()
        self._transport.set_protocol(self)

    def fit(self) -> bool:
        """Whether it may be asked something."""
        if self._lost or self._transport.is_closing():
            return False
        if self._asked:
            return True
        idle_s = self._loop.time() - self._heard_s
        return idle_s < _IDLE_S and not self._connection.should_reconnect()  # type: ignore[no-untyped-call]

    def ask(self, command: bytes) -> "asyncio.Future[Any]":
        """Send a command, with the others of this turn.

        The future has its answer, or fails with redis-py's error.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        self._asked.append((future, self._loop.time()))
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._look)
        if (
            not self._leaving
        ):  # a write is a system call, and takes longer than all else that is done here
            self._loop.call_soon(self._send)
        self._leaving.append(command)
        return future

    def _send(self) -> None:
        leaving, self._leaving = self._leaving, []
        if not self._transport.is_closing():  # else those who asked will hear that it is lost
            self._transport.write(b"".join(leaving))

    def data_received(self, data: bytes) -> None:
        """Answer who asked, in the order in which they did."""
        self._heard_s = self._loop.time()
        self._reader.feed(data)
        while (answer := self._reader.gets()) is not _MORE:
            if isinstance(answer, hiredis.PushNotification):
                continue
            future, _ = self._asked.popleft()
            if future.done():  # cancelled
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is not answered."""
        self._lost = True
        if self._timer is not None:
            self._timer.cancel()
        for future, _ in self._asked:
            if not future.done():
                future.set_exception(
                    LateError(f"Redis has not answered for {self._timeout_s:g} s")
                    if self._late
                    else LostError("the connection to Redis was lost before the answer came")
                )
        self._asked.clear()
        self._streams.connection_lost(exc)  # who closes the client waits for it

    def _look(self) -> None:
        self._timer = None
        if not self._asked:
            return
        left_s = self._asked[0][1] + self._timeout_s - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._look)
        else:
            self._lost = self._late = True
            self._transport.abort()
