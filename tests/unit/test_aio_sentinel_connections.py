"""A connection checks that a server is the primary, and leaves a former primary."""

from typing import Any
from unittest.mock import AsyncMock, Mock, call

import pytest
import redis
from redis.exceptions import NoPermissionError

from tests.unit.test_aio_connections import done
from worker.aio import connections

PRIMARY = ("p", 6379)


class Stock:
    """The methods of redis-py's connections that our connections call."""

    connects: Any = None

    def __init__(self) -> None:
        self.calls = Mock()
        self.host, self.port = "", 0

    def connect(self) -> None:
        self.calls.connect()

    def disconnect(self) -> None:
        self.calls.disconnect()

    def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        self.calls.send_packed_command(*args, **kwargs)

    def _connect(self) -> Any:
        self.calls._connect(self.host, self.port)
        return self.calls.open()

    def on_connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        self.calls.greet(*args, **kwargs)

    def send_command(self, *args: Any, **kwargs: Any) -> None:
        self.calls.send_command(*args, **kwargs)

    def read_response(self) -> Any:
        return self.calls.read_response()


class Async(Stock):
    async def connect(self) -> None:  # type: ignore[override]
        super().connect()

    async def disconnect(self, **how: Any) -> None:  # type: ignore[override]
        assert how == {"nowait": True}
        super().disconnect()

    async def _connect(self) -> Any:
        return super()._connect()

    async def on_connect_check_health(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        super().on_connect_check_health(*args, **kwargs)

    async def send_command(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        super().send_command(*args, **kwargs)

    async def read_response(self) -> Any:
        return super().read_response()

    def should_reconnect(self) -> bool:
        return bool(self.calls.should_reconnect())


class Blocking(connections._BlockingSentinel, Stock):
    """Our connection class on top of `Stock`."""


class Awaiting(connections._AsyncSentinel, Async):  # type: ignore[misc]
    """Our asyncio connection class on top of `Stock`."""


def connection_of(kind: Any, **of: Any) -> Any:
    watching = Mock(**{"primary.return_value": PRIMARY, "is_former.return_value": False}, **of)
    watching.master_name, watching.find_primary = "main", AsyncMock(return_value=PRIMARY)
    connection = kind(sentinels=watching)
    connection.calls.read_response.return_value = ["master", 0, []]
    return connection


# The server's greeting, and whether it counts as the primary.
@pytest.mark.parametrize(
    ("role", "is_primary"),
    [
        (["master", 0, []], True),
        ([b"master", 0, []], True),
        (["slave", "p", 6379], False),
        ([b"slave", b"p", 6379], False),
        (NoPermissionError("this user has no permissions to run the 'role' command"), True),
    ],
)
@pytest.mark.parametrize("kind", [Blocking, Awaiting])
async def test_only_a_primary_is_greeted(kind: Any, role: Any, *, is_primary: bool) -> None:
    connection = connection_of(kind)
    await done(connection._connect())
    reply = {"side_effect": role} if isinstance(role, Exception) else {"return_value": role}
    connection.calls.read_response.configure_mock(**reply)
    connection.calls.reset_mock()
    greeting = (("x",), {"check_health": True})
    if is_primary:
        await done(connection.on_connect_check_health(*greeting[0], **greeting[1]))
    else:
        with pytest.raises(
            redis.ConnectionError,
            match=r"^p:6379 is a replica, although the sentinels name it as the primary main$",
        ):
            await done(connection.on_connect_check_health(*greeting[0], **greeting[1]))
    assert connection.calls.mock_calls == [
        call.greet("x", check_health=True),
        call.send_command("ROLE", check_health=False),
        call.read_response(),
    ]
    known = connection._sentinels
    assert known.confirm.call_args_list == [call(PRIMARY)] * is_primary
    assert known.forget_sentinel.called is not is_primary
    known.is_former.return_value = True
    assert connection._is_stale is is_primary  # without a greeting it is not stale


@pytest.mark.parametrize("kind", [Blocking, Awaiting])
async def test_a_connection_leaves_a_former_primary(kind: Any) -> None:
    connection = connection_of(kind)
    await done(connection.connect())
    assert connection.calls.mock_calls == [call.connect()]
    assert connection.calls._connect.call_count == 0
    await done(connection._connect())
    await done(connection.on_connect_check_health())
    connection._sentinels.is_former.return_value = True
    connection.calls.reset_mock()
    await done(connection.connect())
    assert connection.calls.mock_calls == [call.disconnect(), call.connect()]
    assert connection._sentinels.is_former.call_args == call(PRIMARY)
    connection.calls.reset_mock()
    if kind is Awaiting:
        assert connection.should_reconnect() is True
    else:
        with pytest.raises(redis.ConnectionError, match=r"^p:6379 is no longer the primary main$"):
            connection.send_packed_command(b"x", check_health=False)
        assert connection.calls.mock_calls == [call.disconnect()]
    await done(connection._connect())  # to another server, without a greeting yet
    connection.calls.reset_mock()
    if kind is Awaiting:
        for says in (True, False):
            connection.calls.should_reconnect.return_value = says
            assert connection.should_reconnect() is says
    else:
        connection.send_packed_command(b"x", check_health=False)
        assert connection.calls.mock_calls == [call.send_packed_command(b"x", check_health=False)]


@pytest.mark.parametrize("kind", [Blocking, Awaiting])
async def test_after_a_refused_connection_the_sentinels_are_asked_again(kind: Any) -> None:
    connection = connection_of(kind)
    await done(connection._connect())
    assert connection.calls.mock_calls == [call._connect(*PRIMARY), call.open()]
    connection._sentinels.forget_sentinel.assert_not_called()
    connection.calls.open.side_effect = OSError("refused")
    with pytest.raises(OSError, match="refused"):
        await done(connection._connect())
    connection._sentinels.forget_sentinel.assert_called_once_with()
