"""Which sentinels are asked, and what a connection makes of a primary's greeting."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock, call

import pytest
import redis
from redis.exceptions import NoPermissionError

from worker.aio import connections, sentinels
from worker.aio.addresses import BlockingOverAddresses, OverAddresses
from worker.aio.connections import BlockingSentinelConnection, SentinelConnection, parameters_of
from worker.aio.sentinels import Sentinels, UnknownPrimary

A, B, C = ("a", 1), ("b", 2), ("c", 3)
PRIMARY = ("p", 6379)
AWAY, DENIED = redis.ConnectionError("gone"), redis.AuthenticationError("WRONGPASS invalid")


NONE = "the sentinels watch no primary of the name main"


class Asked:
    """Sentinels that answer as planned, each address once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plan: dict[tuple[str, int], Any] = {}
        self.asked: list[tuple[str, int]] = []
        self.options: list[dict[str, Any]] = []
        monkeypatch.setattr(Sentinels, "_good", {})
        monkeypatch.setattr(Sentinels, "_primaries", {})
        monkeypatch.setattr(sentinels, "_over_addresses", lambda client: client)
        monkeypatch.setattr("worker.aio.sentinels.random.sample", lambda rest, _: list(rest))
        monkeypatch.setattr("worker.aio.sentinels.redis.Redis", self._blocking)
        monkeypatch.setattr("worker.aio.sentinels.redis.asyncio.Redis", self._async)

    def _answer(self, options: dict[str, Any], command: tuple[str, ...]) -> Any:
        address = (options["host"], options["port"])
        assert command == ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")
        self.asked.append(address)
        self.options.append(options)
        if isinstance(answer := self.plan[address], Exception):
            raise answer
        return answer

    def _blocking(self, **options: Any) -> Any:
        return SimpleNamespace(
            execute_command=lambda *command: self._answer(options, command), close=lambda: None
        )

    def _async(self, **options: Any) -> Any:
        async def execute_command(*command: str) -> Any:
            return self._answer(options, command)

        client = AsyncMock(execute_command=execute_command)
        client.__aenter__.return_value = client
        client.__aexit__.return_value = False
        return client


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


async def primary(of: Sentinels, *, blocks: bool) -> Any:
    return of.primary() if blocks else await of.find_primary()


@pytest.mark.parametrize("blocks", [True, False])
async def test_the_sentinel_that_led_to_a_primary_is_asked_first(
    asked: Asked, *, blocks: bool
) -> None:
    of = Sentinels([A, B, ("c", "3")], "main", {"password": "x", "socket_timeout": 9.0})  # type: ignore[list-item]
    found = ("p", "6379")
    asked.plan = {A: AWAY, B: None, C: found}
    assert await primary(of, blocks=blocks) == PRIMARY
    assert asked.asked == [A, B, C]
    its = {"decode_responses": True, "socket_connect_timeout": 1.0, "socket_timeout": 9.0}
    assert its | {"password": "x"} == {
        name: value
        for name, value in asked.options[0].items()
        if name not in {"host", "port", "retry"}
    }
    assert asked.options[0]["retry"].get_retries() == 0
    asked.asked.clear()
    assert await primary(of, blocks=blocks) == PRIMARY
    assert asked.asked == [C]
    of.mistrust()
    of.mistrust()
    asked.plan[A] = found
    asked.asked.clear()
    assert await primary(of, blocks=blocks) == PRIMARY
    assert asked.asked == [A]


# What the sentinels answer, and the error of a question that none of them could answer.
@pytest.mark.parametrize(
    ("plan", "kind", "words", "cause"),
    [
        ({A: AWAY, B: None}, UnknownPrimary, NONE, None),
        ({A: None, B: AWAY}, UnknownPrimary, NONE, None),
        ({A: AWAY, B: OSError("no route")}, redis.ConnectionError,
         "no sentinel answers (a:1: gone; b:2: no route)", AWAY),
        ({A: AWAY, B: DENIED}, redis.AuthenticationError,
         "no sentinel answers (a:1: gone; b:2: WRONGPASS invalid)", DENIED),
    ],
)  # fmt: skip
@pytest.mark.parametrize("blocks", [True, False])
async def test_the_error_says_what_each_sentinel_said(
    asked: Asked, plan: Any, kind: type, words: str, cause: Any, *, blocks: bool
) -> None:
    asked.plan = plan
    with pytest.raises(redis.ConnectionError) as raised:
        await primary(Sentinels([A, B], "main", {}), blocks=blocks)
    assert (type(raised.value), str(raised.value)) == (kind, words)
    assert raised.value.__cause__ is cause


@pytest.mark.parametrize(("options", "has_tls"), [({}, False), ({"ssl": True}, True)])
def test_sentinels_show_no_password(options: dict[str, Any], *, has_tls: bool) -> None:
    of = Sentinels([A], "main", options | {"password": "canary"})
    assert of.has_tls is has_tls
    assert of.addresses == (A,)
    assert repr(of) == "<Sentinels of main at (('a', 1),)>"


def test_a_primary_is_a_former_one_once_another_was_found(asked: Asked) -> None:
    assert asked.asked == []
    of, same, other = (Sentinels([A], name, {}) for name in ("main", "main", "other"))
    assert not of.is_former(PRIMARY)
    of.confirm(PRIMARY)
    assert not same.is_former(PRIMARY)
    assert same.is_former(("q", 6379))
    assert not other.is_former(("q", 6379))


class Stock:
    """What redis-py's connections do, as far as ours call it."""

    connects: Any = None

    def __init__(self) -> None:
        self.told = Mock()
        self.host, self.port = "", 0

    def connect(self) -> None:
        self.told.connect()

    def disconnect(self) -> None:
        self.told.disconnect()

    def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        self.told.send_packed_command(*args, **kwargs)

    def _connect(self) -> Any:
        self.told._connect(self.host, self.port)
        return self.told.open()

    def on_connect_check_health(self, *args: Any, **kwargs: Any) -> None:
        self.told.greet(*args, **kwargs)

    def send_command(self, *args: Any, **kwargs: Any) -> None:
        self.told.send_command(*args, **kwargs)

    def read_response(self) -> Any:
        return self.told.read_response()


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
        return bool(self.told.should_reconnect())


class Blocking(connections._BlockingSentinel, Stock):
    """Ours, over that."""


class Awaiting(connections._AsyncSentinel, Async):  # type: ignore[misc]
    """The same for asyncio."""


async def done(answer: Any) -> Any:
    return await answer if hasattr(answer, "__await__") else answer


def connection_of(kind: Any, **of: Any) -> Any:
    found = Mock(**{"primary.return_value": PRIMARY, "is_former.return_value": False}, **of)
    found.master_name, found.find_primary = "main", AsyncMock(return_value=PRIMARY)
    made = kind(sentinels=found)
    made.told.read_response.return_value = ["master", 0, []]
    return made


# The greeting of the server, and whether it is taken for the primary.
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
    made = connection_of(kind)
    await done(made._connect())
    its = {"side_effect": role} if isinstance(role, Exception) else {"return_value": role}
    made.told.read_response.configure_mock(**its)
    made.told.reset_mock()
    greeting = (("x",), {"check_health": True})
    if is_primary:
        await done(made.on_connect_check_health(*greeting[0], **greeting[1]))
    else:
        with pytest.raises(
            redis.ConnectionError, match=r"^p:6379, the primary main, is a replica$"
        ):
            await done(made.on_connect_check_health(*greeting[0], **greeting[1]))
    assert made.told.mock_calls == [
        call.greet("x", check_health=True),
        call.send_command("ROLE", check_health=False),
        call.read_response(),
    ]
    known = made._sentinels
    assert known.confirm.call_args_list == [call(PRIMARY)] * is_primary
    assert known.mistrust.called is not is_primary
    known.is_former.return_value = True
    assert made._is_left is is_primary  # one that was not greeted is not left


@pytest.mark.parametrize("kind", [Blocking, Awaiting])
async def test_a_connection_leaves_a_former_primary(kind: Any) -> None:
    made = connection_of(kind)
    await done(made.connect())
    assert made.told.mock_calls == [call.connect()]
    assert made.told._connect.call_count == 0
    await done(made._connect())
    await done(made.on_connect_check_health())
    made._sentinels.is_former.return_value = True
    made.told.reset_mock()
    await done(made.connect())
    assert made.told.mock_calls == [call.disconnect(), call.connect()]
    assert made._sentinels.is_former.call_args == call(PRIMARY)
    made.told.reset_mock()
    if kind is Awaiting:
        assert made.should_reconnect() is True
    else:
        with pytest.raises(
            redis.ConnectionError, match=r"^p:6379, the primary main, is so no more"
        ):
            made.send_packed_command(b"x", check_health=False)
        assert made.told.mock_calls == [call.disconnect()]
    await done(made._connect())  # to another one, that was not greeted yet
    made.told.reset_mock()
    if kind is Awaiting:
        for says in (True, False):
            made.told.should_reconnect.return_value = says
            assert made.should_reconnect() is says
    else:
        made.send_packed_command(b"x", check_health=False)
        assert made.told.mock_calls == [call.send_packed_command(b"x", check_health=False)]


@pytest.mark.parametrize("kind", [Blocking, Awaiting])
async def test_an_address_that_nobody_listens_at_is_asked_for_anew(kind: Any) -> None:
    made = connection_of(kind)
    await done(made._connect())
    assert made.told.mock_calls == [call._connect(*PRIMARY), call.open()]
    made._sentinels.mistrust.assert_not_called()
    made.told.open.side_effect = OSError("refused")
    with pytest.raises(OSError, match="refused"):
        await done(made._connect())
    made._sentinels.mistrust.assert_called_once_with()


# A URL's parameters, and what they mean for the primary's and for the sentinels' connections.
@pytest.mark.parametrize(
    ("query", "tls", "addresses", "options"),
    [
        ("", False, (("h", 26379),), {"ssl": False}),
        ("&sentinels=a:1,b:2,", False, (("h", 26379), A, B), {"ssl": False}),
        ("&sentinel_username=u&sentinel_password=s", False, (("h", 26379),),
         {"ssl": False, "username": "u", "password": "s"}),
        ("&ssl=true", True, (("h", 26379),), {"ssl": True}),
        ("&ssl=True&ssl_ca_certs=x", True, (("h", 26379),), {"ssl": True, "ssl_ca_certs": "x"}),
        ("&ssl=true&ssl_ca_certs=x&sentinel_ssl=false", True, (("h", 26379),), {"ssl": False}),
        ("&sentinel_ssl=true", False, (("h", 26379),), {"ssl": True}),
    ],
)  # fmt: skip
def test_a_url_names_the_sentinels_and_what_their_connections_need(
    query: str, addresses: Any, options: dict[str, Any], *, tls: bool
) -> None:
    url = f"sentinel://user:pass@h/3?master_name=main{query}"
    for asynchronous in (False, True):
        found = parameters_of(url, asynchronous=asynchronous)
        of = found.pop("sentinels")
        assert (of.addresses, of.master_name) == (addresses, "main")
        assert options == {
            name: of._options[name] for name in of._options.keys() - sentinels._OPTIONS
        }
        plain: Any = SentinelConnection if asynchronous else BlockingSentinelConnection
        kind = found.pop("connection_class")
        assert issubclass(kind, redis.SSLConnection | redis.asyncio.SSLConnection) is tls
        assert (kind is plain) is not tls
        assert (found.pop("username"), found.pop("password"), found.pop("db")) == (
            "user",
            "pass",
            3,
        )
        assert found.pop("ssl_ca_certs", None) == ("x" if "ca_certs" in query else None)
        assert found == ({"ssl_cert_reqs": "required"} if tls else {})


@pytest.mark.parametrize(
    ("options", "kind"),
    [({}, BlockingOverAddresses), ({"ssl": True}, BlockingOverAddresses), ({}, OverAddresses)],
)
def test_sentinels_are_reached_at_each_of_their_addresses(
    options: dict[str, Any], kind: type
) -> None:
    client: Any = (
        sentinels._client(host="h", **options)
        if kind is BlockingOverAddresses
        else sentinels._over_addresses(redis.asyncio.Redis(host="h"))
    )
    made = client.connection_pool.connection_class
    assert issubclass(made, kind)
    assert issubclass(made, redis.SSLConnection) is bool(options)
