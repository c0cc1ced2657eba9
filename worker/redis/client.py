"""Opens the Redis clients of a process."""

import asyncio
from typing import Any, Final

from redis.asyncio import BlockingConnectionPool, Redis

from config.celery import delays_in_redis
from config.redis_roles import RedisUrls
from config.settings import Settings
from worker.aio.connections import parameters_of

_CONNECTIONS: Final = 6
"""The most connections of a client.

Few are enough, because a script takes well below a millisecond. A hosted Redis may accept only 20
connections in all.
"""
_CONNECTION_WAIT_S: Final = 20
_IDLE_S: Final = 7.0
"""A connection is closed after this time without use, or after up to twice as long, in seconds."""


class IdleClosingPool(BlockingConnectionPool):
    """A connection pool that closes idle connections.

    A process needs several connections for a moment when it starts, and few afterwards.
    """

    _used: set[Any]
    _look: asyncio.TimerHandle | None = None
    _closing: asyncio.Task[None]

    async def release(self, connection: Any) -> None:
        """Take a connection back."""
        await super().release(connection)
        if self._look is None:
            self._used = set()
            self._look = asyncio.get_running_loop().call_later(_IDLE_S, self._look_for_idle)
        self._used.add(connection)

    def _look_for_idle(self) -> None:
        self._look = None
        idle = [
            connection
            for connection in self._available_connections
            if connection.is_connected and connection not in self._used
        ]
        if idle or self._used:
            self._used = set()
            self._look = asyncio.get_running_loop().call_later(_IDLE_S, self._look_for_idle)
        if idle:
            self._closing = asyncio.create_task(self._close(idle))

    async def _close(self, idle: list[Any]) -> None:
        for connection in idle:
            if connection in self._available_connections:  # it is still idle
                await connection.disconnect(nowait=True)


def connect(settings: Settings, url: str | None = None) -> Redis:
    """Return a client that never opens more than a few connections.

    Args:
        settings: The settings, which name the key pool's server.
        url: The server's URL, as `parameters_of` reads it. Default: the key pool's.
    """
    options: dict[str, Any] = {
        "decode_responses": True,
        # Another program may write an entry that is not text. It must not hide the other entries.
        "encoding_errors": "replace",
        "max_connections": _CONNECTIONS,
        "timeout": _CONNECTION_WAIT_S,
        "socket_timeout": 10.0,
        "socket_connect_timeout": 5.0,
        "health_check_interval": 30,
    }
    options |= parameters_of(url or RedisUrls.of(settings).pool, asynchronous=True)
    return Redis.from_pool(IdleClosingPool(**options))


def connect_to_broker(settings: Settings, pools: Redis) -> Redis | None:
    """Return a client of the broker; None unless the broker keeps deferred jobs in Redis.

    Args:
        settings: The settings, which name the broker.
        pools: The client of the key pool. It is returned if both are one server.
    """
    if not delays_in_redis(settings):
        return None
    same = settings.broker_url.get_secret_value() == settings.pool_url.get_secret_value()
    return pools if same else connect(settings, RedisUrls.of(settings).broker_as_pool)
