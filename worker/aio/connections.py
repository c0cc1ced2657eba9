"""Changes redis-py's connections in seven ways that all connections of this program need.

- They leave a server that has become a replica. After a failover behind a proxy or a cloud's
  address, the old primary may keep its connections open and reject every write (`READONLY`).
  redis-py keeps such a connection for ever.
- With the parameter `sentinels`, a connection finds the primary when it connects. As soon as one
  connection of the process has found a new primary, all connections leave the old one. In redis-py
  that needs other pools and clients.
- They try each address of a host that has several (see `addresses`).
- They count as lost after the server's system has been silent for 10 s, because a firewall or a
  failover may drop a connection without a notice. kombu's connections would wait for 30 s for each
  answer, one connection after the other, and idle connections would notice nothing for two hours.
- They report a closed connection with redis-py's own error. uvloop raises RuntimeError on a write
  to a transport that the other side has closed. redis-py does not translate that error, so code
  that retries after a lost connection would not recognize it.
- Blocking connections are shut down by another thread if their server does not answer while a
  worker ends; see `worker.aio.hung_redis`.
- They are created without reading a file. redis-py looks up its own version for each connection,
  which takes more than a millisecond. If the process may open no more files, it also raises an
  error that is not one of redis-py's.
"""

import socket
import time
from collections.abc import Mapping
from typing import Any, Final

import redis
import redis.asyncio
from redis import connection as _stock
from redis.exceptions import NoPermissionError

from worker.aio import hung_redis
from worker.aio.addresses import BlockingOverAddresses, OverAddresses
from worker.aio.redis_retry import is_replica_error, safe_message
from worker.aio.sentinels import PORT, Sentinels

_Mixin: Any = object
_parse_url: Any = _stock.parse_url  # redis-py's function has no types

_KEEPALIVE: Final = {
    "TCP_KEEPIDLE": 5,
    "TCP_KEEPALIVE": 5,  # macOS's name of TCP_KEEPIDLE
    "TCP_KEEPINTVL": 5,
    "TCP_KEEPCNT": 2,
    "TCP_USER_TIMEOUT": 10_000,  # milliseconds without an acknowledged packet
}
_DRIVER: Final = redis.DriverInfo()


class _WithDriverInfo(_Mixin):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"driver_info": _DRIVER, **kwargs})


def keepalive_options(system: Any) -> dict[int, int]:
    """Return the TCP options that end a connection to a silent system.

    Args:
        system: The module `socket`; options that the operating system lacks are left out.
    """
    return {
        getattr(system, option): value
        for option, value in _KEEPALIVE.items()
        if hasattr(system, option)
    }


class _Tcp(_Mixin):
    def __init__(
        self, *args: Any, socket_keepalive_options: Mapping[int, int] | None = None, **kwargs: Any
    ) -> None:
        options = socket_keepalive_options or keepalive_options(socket)
        super().__init__(*args, socket_keepalive_options=options, **kwargs)


class _Blocking(_WithDriverInfo):
    asked_s: float | None = None
    """When the connection began to wait for a reply (monotonic clock); None if it does not wait."""

    def _connect(self) -> Any:
        hung_redis.of_process.enter(self)
        return super()._connect()

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """Read a reply.

        Raises:
            redis.ConnectionError: The server is a replica, and the connection is closed.
        """
        self.asked_s = time.monotonic()
        try:
            reply = super().read_response(*args, **kwargs)
        except redis.ResponseError as exc:
            if not is_replica_error(exc):
                raise
            self.disconnect()
            why = safe_message(exc)
            raise redis.ConnectionError(f"this Redis is a replica now ({why})") from exc
        finally:
            self.asked_s = None
        if hung_redis.of_process.silent:
            hung_redis.of_process.note_answer(self)
        return reply


class _Async(_WithDriverInfo):
    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """Read a reply.

        Raises:
            redis.ConnectionError: The server is a replica, and the connection is closed.
        """
        try:
            return await super().read_response(*args, **kwargs)
        except redis.ResponseError as exc:
            if not is_replica_error(exc):
                raise
            await self.disconnect(nowait=True)
            why = safe_message(exc)
            raise redis.ConnectionError(f"this Redis is a replica now ({why})") from exc

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


class _Sentinel(_Mixin):
    def __init__(self, *, sentinels: Sentinels, **kwargs: Any) -> None:
        self._sentinels = sentinels
        self._is_confirmed = False
        super().__init__(**kwargs)

    def _host_error(self) -> str:
        return f"{self.host}:{self.port}, the primary {self._sentinels.master_name}"

    def _take_role(self, role: Any) -> None:
        if not isinstance(role, NoPermissionError) and role[0] not in {"master", b"master"}:
            self._sentinels.forget_sentinel()
            raise redis.ConnectionError(
                f"{self.host}:{self.port} is a replica, although the sentinels name it as the "
                f"primary {self._sentinels.master_name}"
            )
        self._sentinels.confirm((self.host, self.port))
        self._is_confirmed = True

    @property
    def _is_stale(self) -> bool:
        """Whether another server has become the primary since this connection was opened."""
        return self._is_confirmed and self._sentinels.is_former((self.host, self.port))


class _BlockingSentinel(_Sentinel):
    def connect(self) -> None:
        """Connect, unless the connection is open and its server is still the primary."""
        if self._is_stale:
            self.disconnect()
        super().connect()

    def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        """Send a command.

        Raises:
            redis.ConnectionError: The connection is lost, or the server is no longer the primary.
        """
        if self._is_stale:
            self.disconnect()
            raise redis.ConnectionError(
                f"{self.host}:{self.port} is no longer the primary {self._sentinels.master_name}"
            )
        super().send_packed_command(*args, **kwargs)

    def _connect(self) -> Any:
        self._is_confirmed = False
        self.host, self.port = self._sentinels.primary()
        try:
            return super()._connect()
        except OSError:
            self._sentinels.forget_sentinel()
            raise

    def on_connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        """Set up an open connection, and check that its server is the primary.

        Raises:
            redis.ConnectionError: The server is a replica.
        """
        super().on_connect_check_health(*args, **kwargs)
        self.send_command("ROLE", check_health=False)
        try:
            role = self.read_response()
        except NoPermissionError as exc:
            role = exc
        self._take_role(role)


class _AsyncSentinel(_Sentinel):
    async def connect(self) -> None:
        """Connect, unless the connection is open and its server is still the primary."""
        if self._is_stale:
            await self.disconnect(nowait=True)
        await super().connect()

    def should_reconnect(self) -> bool:
        """Whether the connection must be opened again before it is used."""
        return self._is_stale or bool(super().should_reconnect())

    async def _connect(self) -> None:
        self._is_confirmed = False
        self.host, self.port = await self._sentinels.find_primary()
        try:
            await super()._connect()
        except OSError:
            self._sentinels.forget_sentinel()
            raise

    async def on_connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        """Set up an open connection, and check that its server is the primary.

        Raises:
            redis.ConnectionError: The server is a replica.
        """
        await super().on_connect_check_health(*args, **kwargs)
        await self.send_command("ROLE", check_health=False)
        try:
            role = await self.read_response()
        except NoPermissionError as exc:
            role = exc
        self._take_role(role)


class BlockingTcpConnection(_Tcp, _Blocking, BlockingOverAddresses):
    """A blocking connection for `redis://`."""


class BlockingTlsConnection(_Tcp, _Blocking, redis.SSLConnection, BlockingOverAddresses):
    """A blocking connection for `rediss://`."""


class BlockingSocketConnection(_Blocking, redis.UnixDomainSocketConnection):
    """A blocking connection for `unix://`."""


class BlockingSentinelConnection(_BlockingSentinel, BlockingTcpConnection):
    """A blocking connection for `sentinel://`."""


class BlockingSentinelTlsConnection(_BlockingSentinel, BlockingTlsConnection):
    """A blocking connection for `sentinel://` with TLS."""


class TcpConnection(_Tcp, _Async, OverAddresses):
    """An asyncio connection for `redis://`."""


class TlsConnection(_Tcp, _Async, redis.asyncio.SSLConnection, OverAddresses):
    """An asyncio connection for `rediss://`."""


class SocketConnection(_Async, redis.asyncio.UnixDomainSocketConnection):
    """An asyncio connection for `unix://`."""


class SentinelConnection(_AsyncSentinel, TcpConnection):
    """An asyncio connection for `sentinel://`."""


class SentinelTlsConnection(_AsyncSentinel, TlsConnection):
    """An asyncio connection for `sentinel://` with TLS."""


_KINDS: Final[tuple[tuple[type, type, type], ...]] = (
    (BlockingSentinelTlsConnection, BlockingSentinelTlsConnection, SentinelTlsConnection),
    (BlockingSentinelConnection, BlockingSentinelConnection, SentinelConnection),
    (redis.SSLConnection, BlockingTlsConnection, TlsConnection),
    (redis.UnixDomainSocketConnection, BlockingSocketConnection, SocketConnection),
    (redis.Connection, BlockingTcpConnection, TcpConnection),
)
"""A blocking class, our blocking class for it, and our class for asyncio; subclasses come first."""
KNOWN: Final = frozenset(kind for kinds in _KINDS for kind in kinds[:2])
"""The blocking classes that have a counterpart for asyncio."""


def with_our_connections(
    parameters: Mapping[str, Any], *, asynchronous: bool = False
) -> dict[str, Any]:
    """Return a pool's parameters, changed so that the pool opens our connections.

    Args:
        parameters: The parameters of redis-py's `ConnectionPool`. Without `connection_class`, the
            connections are plain TCP.
        asynchronous: Whether the pool is one of `redis.asyncio`.
    """
    given = parameters.get("connection_class") or redis.Connection
    for kind, blocking, ours in _KINDS:
        if issubclass(given, kind):
            return {**parameters, "connection_class": ours if asynchronous else blocking}
    return dict(parameters)


def parameters_of(url: str, *, asynchronous: bool = False) -> dict[str, Any]:
    """Convert a URL to the parameters of redis-py's `ConnectionPool`.

    Args:
        url: A URL of redis-py, or `sentinel://user:password@host:port/0?master_name=…`. In the
            latter, `sentinels` lists further sentinels (`host:port`, separated by commas), and
            `ssl=true` turns TLS on. `sentinel_ssl`, `sentinel_username` and `sentinel_password`
            apply to the connections to the sentinels.
        asynchronous: Whether the pool is one of `redis.asyncio`.
    """
    if not url.startswith("sentinel://"):
        return with_our_connections(_parse_url(url), asynchronous=asynchronous)
    options = _parse_url(url.replace("sentinel://", "redis://", 1))
    first = (options.pop("host"), options.pop("port", PORT))
    others = [
        address.rpartition(":") for address in options.pop("sentinels", "").split(",") if address
    ]
    tls = _is_true(options.pop("ssl", "false"))
    of_sentinels = _of_sentinels(options, tls=tls)
    addresses = [first, *((host, int(port)) for host, _, port in others)]
    if tls:
        options.setdefault("ssl_cert_reqs", "required")  # Celery's result store insists on it
    options |= {
        "sentinels": Sentinels(addresses, options.pop("master_name"), of_sentinels),
        "connection_class": BlockingSentinelTlsConnection if tls else BlockingSentinelConnection,
    }
    return with_our_connections(options, asynchronous=asynchronous)


def _of_sentinels(options: dict[str, Any], *, tls: bool) -> dict[str, Any]:
    """Remove the options for connections to the sentinels from a URL's options, and return them."""
    names = [name for name in ("username", "password", "ssl") if f"sentinel_{name}" in options]
    given = {name: options.pop(f"sentinel_{name}") for name in names}
    given["ssl"] = _is_true(given.get("ssl", tls))
    if given["ssl"]:
        given |= {name: options[name] for name in options if name.startswith("ssl_")}
    return given


def _is_true(value: object) -> bool:
    return str(value).lower() == "true"
