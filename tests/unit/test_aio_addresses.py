"""A connection to a name with several addresses, the first of which does not answer."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import redis.asyncio

from worker.aio import addresses
from worker.aio.connections import (
    BlockingTcpConnection,
    BlockingTlsConnection,
    TcpConnection,
    TlsConnection,
    keepalive_options,
)

_HOST = "two-addresses.example"
_SILENT, _ANSWERING = "127.0.0.2", "127.0.0.1"


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port at which one address answers and the other accepts no connection."""
    with (
        socket.create_server((_ANSWERING, 0), backlog=50) as answering,
        socket.socket() as silent,
        contextlib.ExitStack() as waiting,
    ):
        port = answering.getsockname()[1]
        silent.bind((_SILENT, port))
        silent.listen(0)
        for _ in range(4):  # its queue is full, so the system drops further connections
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex((_SILENT, port))
        stock = socket.getaddrinfo

        def resolve(host: Any, *args: Any, **options: Any) -> Any:
            if host != _HOST:
                return stock(host, *args, **options)
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
                for address in (_SILENT, _ANSWERING)
            ]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        monkeypatch.setattr(addresses, "_answered", {})
        yield port


def _options(port: int, timeout_s: float = 0.4) -> dict[str, Any]:
    return {"host": _HOST, "port": port, "socket_connect_timeout": timeout_s}


async def test_an_address_that_answers_is_reached_behind_one_that_does_not(port: int) -> None:
    connection = TcpConnection(**_options(port))
    await connection._connect()
    assert connection._writer.get_extra_info("peername")[0] == _ANSWERING
    assert (connection.host, connection.socket_connect_timeout) == (_HOST, 0.4)
    await connection.disconnect(nowait=True)


def test_a_blocking_connection_reaches_the_address_that_answers_too(port: int) -> None:
    connection = BlockingTcpConnection(**_options(port))
    with connection._connect() as connected:
        assert connected.getpeername()[0] == _ANSWERING
    assert (connection.host, connection.socket_connect_timeout) == (_HOST, 0.4)


@pytest.mark.parametrize("blocks_first", [True, False])
async def test_the_address_that_answered_comes_first_afterwards(
    port: int, *, blocks_first: bool
) -> None:
    if blocks_first:
        BlockingTcpConnection(**_options(port))._connect().close()
    else:
        first = TcpConnection(**_options(port))
        await first._connect()
        await first.disconnect(nowait=True)
    tried = []
    connection = TcpConnection(**_options(port))
    stock = connection._connection_arguments

    def note() -> Any:
        tried.append(connection._address)
        return stock()

    connection._connection_arguments = note
    await connection._connect()
    await connection.disconnect(nowait=True)
    assert tried == [_ANSWERING]


@pytest.mark.parametrize("kind", [TcpConnection, BlockingTcpConnection])
async def test_if_no_address_answers_the_last_failure_is_raised_and_the_host_keeps_its_name(
    port: int, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    none = (socket.AF_INET, socket.SOCK_STREAM, 6, "", (_SILENT, port))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: [none])
    connection = kind(**_options(port, 0.1))
    with pytest.raises(redis.TimeoutError, match="Timeout connecting to server"):
        await asyncio.to_thread(connection.connect) if kind is BlockingTcpConnection else (
            await connection.connect()
        )
    assert connection.host == _HOST


@pytest.mark.parametrize("kind", [TcpConnection, BlockingTcpConnection])
async def test_a_name_without_an_address_is_an_error(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookups: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **_: lookups.append(args) or [])
    connection = kind(**_options(7))
    with pytest.raises(OSError, match=r"^the host has no address$"):
        await asyncio.to_thread(connection._connect) if kind is BlockingTcpConnection else (
            await connection._connect()
        )
    assert lookups == [(_HOST, 7, 0, socket.SOCK_STREAM, *lookups[0][4:])]


async def test_the_time_for_a_connection_is_also_that_for_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)
    async with asyncio.timeout(20):
        with pytest.raises(redis.TimeoutError, match="Timeout connecting to server"):
            await TcpConnection(**_options(7, 0.01)).connect()


@pytest.mark.parametrize("kind", [TcpConnection, BlockingTcpConnection])
async def test_an_address_is_not_looked_up_first(
    port: int, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[Any] = []
    stock = socket.getaddrinfo

    def look_up(*args: Any, **options: Any) -> Any:
        looked_up.append(args[0])
        return stock(*args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    connection = kind(**_options(port) | {"host": _ANSWERING})
    if kind is TcpConnection:
        await connection._connect()
        assert connection._writer.get_extra_info("peername")[0] == _ANSWERING
        await connection.disconnect(nowait=True)
    else:
        connection._connect().close()
    by_redis_py = [_ANSWERING] * (kind is BlockingTcpConnection)
    assert looked_up == by_redis_py


async def test_a_certificate_is_checked_against_the_name_and_not_the_address(port: int) -> None:
    connection = TlsConnection(**_options(port), ssl_cert_reqs="none", ssl_check_hostname=False)
    connection._address = _ANSWERING
    arguments = connection._connection_arguments()
    assert (arguments["host"], arguments["server_hostname"]) == (_ANSWERING, _HOST)
    connection._address = ""
    assert connection._connection_arguments()["host"] == _HOST
    hosts: list[str] = []
    blocking = BlockingTlsConnection(**_options(port))
    blocking._wrap_socket_with_ssl = lambda connected: (hosts.append(blocking.host), connected)[1]
    with blocking._connect():
        assert hosts == [_HOST]


def test_an_address_on_one_interface_keeps_its_zone() -> None:
    """The addresses are tried once each, in the system's order."""
    kind = (socket.AF_INET6, socket.SOCK_STREAM, 6, "")
    resolved = [
        (*kind, ("fe80::1", 1, 0, 3)),
        (*kind, ("::1", 1, 0, 0)),
        (*kind, ("fe80::2%eth0", 1, 0, 3)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 1)),
        (*kind, ("::1", 1, 0, 0)),
    ]
    assert addresses._in_order("h", 1, resolved) == ["fe80::1%3", "::1", "fe80::2%eth0", "10.0.0.1"]


def test_an_address_that_answered_for_another_host_or_port_does_not_come_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = {("h", 1): "c", ("h", 2): "b", ("other", 1): "b"}
    monkeypatch.setattr(addresses, "_answered", known)
    resolved = [(0, 0, 0, "", (address, 1)) for address in "abc"]
    assert addresses._in_order("h", 1, resolved) == ["c", "a", "b"]


def test_time_is_divided_among_addresses_and_what_one_leaves_goes_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 1000.0
    monkeypatch.setattr(addresses, "time", SimpleNamespace(monotonic=lambda: now_s))
    shares = []
    for address, share_s in addresses._shares(["a", "b", "c", "d"], 8.0):
        shares.append((address, share_s))
        now_s += {"a": 2.0, "b": 0.0, "c": 7.0, "d": 0.0}[address]
    # The last address gets a moment, although its time is over.
    assert shares == [("a", 2.0), ("b", 2.0), ("c", 3.0), ("d", 0.1)]
    unbounded = list(addresses._shares(["a", "b", "c"], None))
    assert unbounded == [("a", 5.0), ("b", 5.0), ("c", None)]


@pytest.mark.parametrize("kind", [TcpConnection, BlockingTcpConnection])
async def test_a_connection_has_the_options_that_notice_a_dead_peer(port: int, kind: Any) -> None:
    """kombu sets no options, so the system would notice after two hours."""
    connection = kind(**_options(port), socket_keepalive=True, socket_keepalive_options=None)
    if kind is TcpConnection:
        await connection._connect()
        connected = connection._writer.get_extra_info("socket")
    else:
        connected = connection._connect()
    options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_USER_TIMEOUT)
    assert [connected.getsockopt(socket.IPPROTO_TCP, option) for option in options] == [
        5,
        5,
        10_000,
    ]
    await connection.disconnect(nowait=True) if kind is TcpConnection else connected.close()


def test_options_of_ones_own_stay() -> None:
    own = {socket.TCP_KEEPIDLE: 60}
    assert TcpConnection(socket_keepalive_options=own).socket_keepalive_options == own


def test_a_system_without_some_of_the_options_goes_without_them() -> None:
    """Otherwise `celery -A worker` could not be imported on macOS."""
    macos = SimpleNamespace(TCP_KEEPALIVE=16, TCP_KEEPINTVL=257, TCP_KEEPCNT=258)
    assert keepalive_options(macos) == {16: 5, 257: 5, 258: 2}
    assert keepalive_options(SimpleNamespace()) == {}
