"""Opens the clients of a process."""

from typing import Any, Final

from redis.asyncio import BlockingConnectionPool, Redis

from config.celery import delays_in_redis
from config.redis_roles import RedisUrls
from config.settings import Settings
from worker.aio.connections import parameters_of

_CONNECTIONS: Final = 6
"""A script takes well below a millisecond, and a hosted Redis may accept 20 connections in all."""
_CONNECTION_WAIT_S: Final = 20


def connect(settings: Settings, url: str | None = None) -> Redis:
    """Return a client that never opens more than a few connections.

    Args:
        settings: The settings, which name the key pool's server.
        url: The server's URL, as `parameters_of` reads it. Default: the key pool's.
    """
    options: dict[str, Any] = {
        "decode_responses": True,
        "max_connections": _CONNECTIONS,
        "timeout": _CONNECTION_WAIT_S,
        "socket_timeout": 10.0,
        "socket_connect_timeout": 5.0,
        "health_check_interval": 30,
    }
    options |= parameters_of(url or RedisUrls.of(settings).pool, asynchronous=True)
    return Redis.from_pool(BlockingConnectionPool(**options))


def connect_to_broker(settings: Settings, pools: Redis) -> Redis | None:
    """Return a client of the broker; None where its jobs are not counted and woken in Redis.

    Args:
        settings: The settings, which name the broker.
        pools: The client of the key pool, which serves where both are one server.
    """
    if not delays_in_redis(settings):
        return None
    same = settings.broker_url.get_secret_value() == settings.pool_url.get_secret_value()
    return pools if same else connect(settings, RedisUrls.of(settings).broker_as_pool)
