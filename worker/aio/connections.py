"""redis-py's asyncio connections, except that a closed one says so with an error of redis-py.

uvloop raises RuntimeError where something is written to a transport that the other side has closed
meanwhile. redis-py passes that on as it is, and who tries again after a lost connection does not
know it for one.
"""

from typing import Any, Final

import redis
import redis.asyncio

_Mixin: Any = object


class _TellsOfItsEnd(_Mixin):
    async def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        """Send a command.

        Raises:
            redis.ConnectionError: The connection is closed.
        """
        try:
            await super().send_packed_command(*args, **kwargs)
        except RuntimeError as exc:
            raise redis.ConnectionError(
                "the connection was closed while it was written to"
            ) from exc


class TcpConnection(_TellsOfItsEnd, redis.asyncio.Connection):
    """For `redis://`."""


class TlsConnection(_TellsOfItsEnd, redis.asyncio.SSLConnection):
    """For `rediss://`."""


class SocketConnection(_TellsOfItsEnd, redis.asyncio.UnixDomainSocketConnection):
    """For `unix://`."""


_OURS: Final[dict[type, type]] = {
    redis.asyncio.Connection: TcpConnection,
    redis.asyncio.SSLConnection: TlsConnection,
    redis.asyncio.UnixDomainSocketConnection: SocketConnection,
}


ASYNC_CLASSES: Final[tuple[tuple[type, type], ...]] = (
    (redis.SSLConnection, TlsConnection),
    (redis.UnixDomainSocketConnection, SocketConnection),
    (redis.Connection, TcpConnection),
)
"""For each class of redis-py's blocking connections ours, the narrower ones first."""


def told_of_their_end(pool: "redis.asyncio.ConnectionPool") -> "redis.asyncio.ConnectionPool":
    """Let a pool that has made no connection yet make ours; one of another class stays as it is."""
    pool.connection_class = _OURS.get(pool.connection_class, pool.connection_class)
    return pool
