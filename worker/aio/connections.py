"""redis-py's asyncio connections, which report a closed connection by redis-py's own error.

uvloop raises RuntimeError on a write to a transport that the other side has closed. redis-py does
not translate it, so code that retries after a lost connection would not recognize it.
"""

from typing import Any, Final

import redis
import redis.asyncio

_Mixin: Any = object


class _ReportsItsEnd(_Mixin):
    async def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        """Send a command.

        Raises:
            redis.ConnectionError: The connection is closed.
        """
        try:
            await super().send_packed_command(*args, **kwargs)
        except RuntimeError as exc:
            raise redis.ConnectionError(
                "the connection was closed before the command was written"
            ) from exc


class TcpConnection(_ReportsItsEnd, redis.asyncio.Connection):
    """For `redis://`."""


class TlsConnection(_ReportsItsEnd, redis.asyncio.SSLConnection):
    """For `rediss://`."""


class SocketConnection(_ReportsItsEnd, redis.asyncio.UnixDomainSocketConnection):
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
"""For each class of redis-py's blocking connections our asyncio class, subclasses first."""


def reporting_their_end(pool: "redis.asyncio.ConnectionPool") -> "redis.asyncio.ConnectionPool":
    """Make a pool without connections open ours; a pool with another class stays unchanged."""
    pool.connection_class = _OURS.get(pool.connection_class, pool.connection_class)
    return pool
