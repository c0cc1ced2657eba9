"""A connection that was closed under its writer tells it with redis-py's own error."""

import asyncio
import errno
from typing import Any

import pytest
import redis
import redis.asyncio

from worker.aio.connections import (
    BlockingTcpConnection,
    SocketConnection,
    TcpConnection,
    TlsConnection,
    parameters_of,
    with_our_connections,
)


class ClosedUnderWriter:
    """What uvloop does once the other side has gone."""

    def writelines(self, data: Any) -> None:  # noqa: ARG002 - the transport's signature
        raise RuntimeError(
            "unable to perform operation on <TCPTransport closed=True>; the handler is closed"
        )

    def close(self) -> None:
        """It is."""

    async def wait_closed(self) -> None:
        """The same."""


async def test_writing_to_a_closed_connection_is_a_lost_connection() -> None:
    connection = TcpConnection()
    connection._reader, connection._writer = asyncio.StreamReader(), ClosedUnderWriter()
    with pytest.raises(redis.ConnectionError, match="closed before the command was written"):
        await connection.send_command("PING")


# The URL's scheme, and the class that its pool makes.
@pytest.mark.parametrize(
    ("url", "made"),
    [
        ("redis://h/0", TcpConnection),
        ("rediss://h/0", TlsConnection),
        ("unix:///tmp/none.sock", SocketConnection),
    ],
)
def test_every_kind_of_url_gets_such_connections(url: str, made: type) -> None:
    assert parameters_of(url, asynchronous=True)["connection_class"] is made


def test_a_class_of_ones_own_stays() -> None:
    class Own(redis.asyncio.Connection):
        pass

    parameters = {"host": "h", "connection_class": Own}
    assert with_our_connections(parameters, asynchronous=True) == parameters


@pytest.mark.parametrize("kind", [BlockingTcpConnection, TcpConnection])
def test_a_connection_is_made_without_looking_a_version_up_in_a_file(
    kind: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_up() -> str:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("redis.utils.get_lib_version", look_up)
    assert kind().driver_info.lib_version == redis.__version__
