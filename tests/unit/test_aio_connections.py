"""Our connections to Redis: their classes, errors, and since when they wait for a reply."""

import asyncio
import errno
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
import redis
import redis.asyncio

from worker.aio import connections, hung_redis
from worker.aio.connections import (
    BlockingTcpConnection,
    SocketConnection,
    TcpConnection,
    TlsConnection,
    parameters_of,
    with_our_connections,
)


class ClosedUnderWriter:
    """A connection that uvloop has closed after the other side."""

    def writelines(self, data: Any) -> None:  # noqa: ARG002 - the transport's signature
        raise RuntimeError(
            "unable to perform operation on <TCPTransport closed=True>; the handler is closed"
        )

    def close(self) -> None:
        """Do nothing, because the connection is closed already."""

    async def wait_closed(self) -> None:
        """Return at once, because nothing is left to wait for."""


async def test_writing_to_a_closed_connection_is_an_error_of_redis_py() -> None:
    connection = TcpConnection()
    connection._reader, connection._writer = asyncio.StreamReader(), ClosedUnderWriter()
    with pytest.raises(redis.ConnectionError, match="closed before the command was written"):
        await connection.send_command("PING")


# The scheme of the URL, and the class of its pool's connections.
@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("redis://h/0", TcpConnection),
        ("rediss://h/0", TlsConnection),
        ("unix:///tmp/none.sock", SocketConnection),
    ],
)
def test_every_kind_of_url_gets_connections_of_ours(url: str, kind: type) -> None:
    assert parameters_of(url, asynchronous=True)["connection_class"] is kind


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


class Stock:
    """The methods of redis-py's connections that our connections call."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.calls = Mock()
        self.calls.read.return_value = "reply"

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        return self.calls.read(*args, **kwargs)

    def disconnect(self) -> None:
        self.calls.disconnect()


class AsyncStock(Stock):
    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        return super().read_response(*args, **kwargs)

    async def disconnect(self, *, nowait: bool) -> None:  # type: ignore[override]
        assert nowait
        super().disconnect()


class Blocking(connections._Blocking, Stock):
    """Our connection class on top of `Stock`."""


class Awaiting(connections._Async, AsyncStock):  # type: ignore[misc]
    """Our asyncio connection class on top of `Stock`."""


async def done(answer: Any) -> Any:
    return await answer if hasattr(answer, "__await__") else answer


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> Any:
    known = SimpleNamespace(silent=False, note_answer=Mock())
    monkeypatch.setattr(hung_redis, "of_process", known)
    return known


# The server's error, and whether the connection is left.
@pytest.mark.parametrize(
    ("error", "is_left"),
    [
        (redis.exceptions.ReadOnlyError("READONLY no"), True),
        (redis.ResponseError("Error running script (call to f_0): @x:1: -READONLY no"), True),
        (redis.ResponseError("WRONGTYPE no list"), False),
        (redis.ConnectionError("gone"), False),
    ],
)
@pytest.mark.parametrize("kind", [Blocking, Awaiting])
async def test_a_server_that_has_become_a_replica_is_left(
    hung: Any, kind: Any, error: Exception, *, is_left: bool
) -> None:
    connection = kind()
    connection.calls.read.side_effect = error
    with pytest.raises(redis.ConnectionError if is_left else type(error)) as raised:
        await done(connection.read_response())
    assert connection.calls.disconnect.call_count == is_left
    if is_left:
        assert str(raised.value).startswith("this Redis is a replica now (")
        assert raised.value.__cause__ is error
    else:
        assert raised.value is error
    if kind is Blocking:
        assert connection.asked_s is None
    hung.note_answer.assert_not_called()


@pytest.mark.parametrize("kind", [Blocking, Awaiting])
async def test_a_reply_is_handed_on(hung: Any, kind: Any) -> None:
    connection = kind(x=1)
    assert connection.options == {"x": 1, "driver_info": connections._DRIVER}
    assert kind(driver_info=None).options == {"driver_info": None}
    assert await done(connection.read_response(1, disable_decoding=True)) == "reply"
    assert connection.calls.mock_calls == [call.read(1, disable_decoding=True)]
    hung.note_answer.assert_not_called()


def test_a_connection_knows_since_when_it_waits_and_notes_that_a_silent_server_has_answered(
    hung: Any,
) -> None:
    hung.silent = True
    connection: Any = Blocking()
    connection.calls.read.side_effect = lambda: connection.asked_s
    assert connection.asked_s is None
    assert connection.read_response() > 0
    assert connection.asked_s is None
    assert hung.note_answer.call_args_list == [call(connection)]
