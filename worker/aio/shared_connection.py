"""Sends the commands of all jobs over one connection, without waiting between them."""

import asyncio
from collections import deque
from contextvars import Context
from typing import Any, cast

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, ConnectionPool, DefaultParser
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import InvalidResponse
from redis.exceptions import TimeoutError as LateError

from worker.aio.redis_retry import is_replica_error

_INCOMPLETE = object()  # the answer has not arrived in full
_TIMEOUT_S = 10.0
"""The timeout if the client has none, in seconds."""
_IDLE_S = 30.0
"""After this idle time, in seconds, a connection is reopened: a firewall may have dropped it."""


class SharedConnection:
    """A connection that sends commands as a client does, with a third of the CPU time.

    Commands leave in the order in which they are sent, without waiting for the answers to earlier
    commands. The commands of one turn of the event loop leave in one write.

    No command is sent twice. If the connection is lost before the answer, the command may or may
    not have run. A cancelled command still runs, and its answer is dropped. No command may block
    the server, because all other commands would wait behind it.

    Args:
        redis: A client. Answers are text if the client decodes them, otherwise bytes. One of the
            client's connections is kept, and closed with the client.
    """

    def __init__(self, redis: Redis) -> None:
        self._pool: ConnectionPool = redis.connection_pool
        self._timeout_s = float(self._pool.connection_kwargs.get("socket_timeout") or _TIMEOUT_S)
        self._connection: AbstractConnection | None = None
        self._link: Link | None = None
        self._opening: asyncio.Task[Link] | None = None

    async def link(self) -> "Link":
        """Return a connection on which commands can be sent at once.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        link = self._link
        if link is None or not link.is_usable():
            link = await self._opened()
        return link

    async def _opened(self) -> "Link":
        """Open a connection. Callers that come meanwhile share the new connection or its error."""
        if self._opening is None:
            # The task does not belong to a job, because the first caller may be cancelled.
            self._opening = asyncio.get_running_loop().create_task(self._open(), context=Context())
            self._opening.add_done_callback(self._open_ended)
        return await asyncio.shield(self._opening)

    def _open_ended(self, opening: "asyncio.Task[Link]") -> None:
        self._opening = None
        if not opening.cancelled():
            opening.exception()  # retrieved, so that asyncio does not log it if no caller waits

    async def _open(self) -> "Link":
        connection, self._connection, self._link = self._connection, None, None
        if connection is None:
            connection = cast(AbstractConnection, await self._pool.get_connection())  # type: ignore[no-untyped-call]
        else:
            try:
                await connection.disconnect(nowait=True)
                await self._pool.ensure_connection(connection)
            except BaseException:
                await self._pool.release(connection)
                raise
        self._connection, self._link = connection, Link(connection, self._timeout_s)
        return self._link


class Link(asyncio.Protocol):
    """A client's connection that is taken over after TLS, login and the choice of the database.

    Args:
        connection: A connection on which no command waits for its answer.
        timeout_s: How long the server may stay silent while a command waits, in seconds.
    """

    def __init__(self, connection: AbstractConnection, timeout_s: float) -> None:
        self._connection, self._timeout_s = connection, timeout_s
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._outgoing: list[bytes] = []
        self._answered_s = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._lost = False
        self._late = False
        self._ended = False
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse,
            replyError=DefaultParser.parse_error,
            # Without an encoding, answers stay bytes.
            **({"encoding": "utf-8"} if connection.encoder.decode_responses else {}),
            errors="replace",
            notEnoughData=_INCOMPLETE,
        )
        # redis-py opens connections as streams, and gives no other access to them.
        self._transport = cast(asyncio.Transport, connection._writer.transport)  # type: ignore[union-attr]  # noqa: SLF001
        self._streams = self._transport.get_protocol()
        self._transport.set_protocol(self)
        if connection._reader.at_eof():  # type: ignore[union-attr]  # noqa: SLF001 - as above
            # The server closed the connection at once. asyncio has reported that to the streams,
            # and does not report it a second time.
            self._lost = True
            self._transport.abort()

    def leave(self) -> None:
        """Send nothing more on this connection, because another server is the primary now."""
        self._lost = True

    def is_usable(self) -> bool:
        """Whether a command may be sent on this connection."""
        if self._lost or self._transport.is_closing():
            return False
        if self._waiting:
            return True
        idle_s = self._loop.time() - self._answered_s
        return idle_s < _IDLE_S and not self._connection.should_reconnect()  # type: ignore[no-untyped-call]

    def send(self, command: bytes) -> "asyncio.Future[Any]":
        """Send a command, together with the other commands of this turn of the loop.

        Returns:
            A future with the answer, or with redis-py's error.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._ended:  # the connection was lost after the caller got this link
            future.set_exception(self._loss())
            return future
        self._waiting.append((future, self._loop.time()))
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_s, self._check_timeout)
        if not self._outgoing:
            # One write for all commands of this turn, because a system call takes longer than all
            # other steps together.
            self._loop.call_soon(self._flush)
        self._outgoing.append(command)
        return future

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if not self._transport.is_closing():  # otherwise connection_lost() fails the futures
            self._transport.write(b"".join(outgoing))

    def data_received(self, data: bytes) -> None:
        """Give each answer to its command: answers come in the order of the commands."""
        self._answered_s = self._loop.time()
        self._reader.feed(data)
        while (answer := self._reader.gets()) is not _INCOMPLETE:
            if isinstance(answer, hiredis.PushNotification):
                continue
            future, _ = self._waiting.popleft()
            if future.done():  # cancelled
                continue
            if isinstance(answer, Exception):
                # If another server is the primary now, this server may still keep the connection
                # open for ever.
                self._lost = self._lost or is_replica_error(answer)
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the commands that have no answer yet."""
        self._lost = self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        for future, _ in self._waiting:
            if not future.done():
                future.set_exception(self._loss())
        self._waiting.clear()
        self._streams.connection_lost(exc)  # closing the client waits for this call

    def _loss(self) -> Exception:
        if self._late:
            return LateError(f"Redis has not answered for {self._timeout_s:g} s")
        return LostError("the connection to Redis was lost before the answer came")

    def _check_timeout(self) -> None:
        self._timer = None
        if not self._waiting:
            return
        left_s = self._waiting[0][1] + self._timeout_s - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._check_timeout)
        else:
            self._lost = self._late = True
            self._transport.abort()
