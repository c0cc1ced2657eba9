"""A connection to a name with several addresses, of which the first does not answer."""

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
    silence_options,
)

_HOST = "two-addresses.example"
_SILENT, _ANSWERING = "127.0.0.2", "127.0.0.1"


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A port at which one address answers, and the other one lets nobody in."""
    with (
        socket.create_server((_ANSWERING, 0), backlog=50) as answering,
        socket.socket() as silent,
        contextlib.ExitStack() as waiting,
    ):
        port = answering.getsockname()[1]
        silent.bind((_SILENT, port))
        silent.listen(0)
        for _ in range(4):  # its queue is full: the system drops whoever comes next
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex((_SILENT, port))
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


def test_so_it_is_where_the_thread_waits(port: int) -> None:
    connection = BlockingTcpConnection(**_options(port))
    with connection._connect() as connected:
        assert connected.getpeername()[0] == _ANSWERING
    assert (connection.host, connection.socket_connect_timeout) == (_HOST, 0.4)


async def test_the_address_that_answered_comes_first_afterwards(port: int) -> None:
    with BlockingTcpConnection(**_options(port))._connect():
        pass
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
async def test_where_none_answers_the_last_failure_is_told_with_the_name(
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


async def test_a_certificate_is_held_against_the_name_and_not_the_address(port: int) -> None:
    connection = TlsConnection(**_options(port), ssl_cert_reqs="none", ssl_check_hostname=False)
    connection._address = _ANSWERING
    assert connection._connection_arguments()["server_hostname"] == _HOST
    seen: list[str] = []
    blocking = BlockingTlsConnection(**_options(port))
    blocking._wrap_socket_with_ssl = lambda connected: (seen.append(blocking.host), connected)[1]
    with blocking._connect():
        assert seen == [_HOST]


def test_an_address_on_one_interface_keeps_its_zone() -> None:
    found = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::1", 1, 0, 3)),
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 1, 0, 0)),
    ]
    assert addresses._in_order("h", 1, found) == ["fe80::1%3", "::1"]


def test_time_is_divided_and_what_one_does_not_use_is_left_for_the_next() -> None:
    shares = list(addresses._shares(["a", "b"], 4.0))
    assert [address for address, _ in shares] == ["a", "b"]
    assert shares[0][1] == pytest.approx(2.0, abs=0.5)
    assert shares[1][1] == pytest.approx(4.0, abs=0.5)
    assert list(addresses._shares(["a", "b"], None)) == [("a", 5.0), ("b", None)]


@pytest.mark.parametrize("kind", [TcpConnection, BlockingTcpConnection])
async def test_a_side_that_is_gone_without_a_word_is_noticed(port: int, kind: Any) -> None:
    """kombu gives no options: the system would notice after two hours."""
    connection = kind(**_options(port), socket_keepalive=True, socket_keepalive_options=None)
    if kind is TcpConnection:
        await connection._connect()
        connected = connection._writer.get_extra_info("socket")
    else:
        connected = connection._connect()
    options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_USER_TIMEOUT)
    assert [connected.getsockopt(socket.IPPROTO_TCP, one) for one in options] == [5, 5, 10_000]
    await connection.disconnect(nowait=True) if kind is TcpConnection else connected.close()


def test_options_of_ones_own_stay() -> None:
    own = {socket.TCP_KEEPIDLE: 60}
    assert TcpConnection(socket_keepalive_options=own).socket_keepalive_options == own


def test_a_system_without_some_of_the_options_goes_without_them() -> None:
    """`celery -A worker` could not be imported on macOS."""
    macos = SimpleNamespace(TCP_KEEPALIVE=16, TCP_KEEPINTVL=257, TCP_KEEPCNT=258)
    assert silence_options(macos) == {16: 5, 257: 5, 258: 2}
    assert silence_options(SimpleNamespace()) == {}
