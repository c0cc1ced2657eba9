"""Which sentinels are asked, and how a URL names them."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
import redis

from worker.aio import sentinels
from worker.aio.addresses import BlockingOverAddresses, OverAddresses
from worker.aio.connections import BlockingSentinelConnection, SentinelConnection, parameters_of
from worker.aio.sentinels import Sentinels, UnknownPrimary

A, B, C = ("a", 1), ("b", 2), ("c", 3)
PRIMARY = ("p", 6379)
AWAY, DENIED = redis.ConnectionError("gone"), redis.AuthenticationError("WRONGPASS invalid")


NONE = "the sentinels watch no primary of the name main"


class PlannedSentinels:
    """Sentinels with planned answers, one for each address."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plan: dict[tuple[str, int], Any] = {}
        self.addresses: list[tuple[str, int]] = []
        self.options: list[dict[str, Any]] = []
        monkeypatch.setattr(Sentinels, "_last_good", {})
        monkeypatch.setattr(Sentinels, "_primaries", {})
        monkeypatch.setattr(sentinels, "_over_addresses", lambda client: client)
        monkeypatch.setattr("worker.aio.sentinels.random.sample", lambda rest, _: list(rest))
        monkeypatch.setattr("worker.aio.sentinels.redis.Redis", self._blocking)
        monkeypatch.setattr("worker.aio.sentinels.redis.asyncio.Redis", self._async)

    def _answer(self, options: dict[str, Any], command: tuple[str, ...]) -> Any:
        address = (options["host"], options["port"])
        assert command == ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")
        self.addresses.append(address)
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
def planned(monkeypatch: pytest.MonkeyPatch) -> PlannedSentinels:
    return PlannedSentinels(monkeypatch)


async def primary(watched: Sentinels, *, blocks: bool) -> Any:
    return watched.primary() if blocks else await watched.find_primary()


@pytest.mark.parametrize("blocks", [True, False])
async def test_the_sentinel_that_led_to_a_primary_is_asked_first(
    planned: PlannedSentinels, *, blocks: bool
) -> None:
    watched = Sentinels([A, B, ("c", "3")], "main", {"password": "x", "socket_timeout": 9.0})  # type: ignore[list-item]
    reply = ("p", "6379")
    planned.plan = {A: AWAY, B: None, C: reply}
    assert await primary(watched, blocks=blocks) == PRIMARY
    assert planned.addresses == [A, B, C]
    expected = {"decode_responses": True, "socket_connect_timeout": 1.0, "socket_timeout": 9.0}
    assert expected | {"password": "x"} == {
        name: value
        for name, value in planned.options[0].items()
        if name not in {"host", "port", "retry"}
    }
    assert planned.options[0]["retry"].get_retries() == 0
    planned.addresses.clear()
    assert await primary(watched, blocks=blocks) == PRIMARY
    assert planned.addresses == [C]
    watched.forget_sentinel()
    watched.forget_sentinel()
    planned.plan[A] = reply
    planned.addresses.clear()
    assert await primary(watched, blocks=blocks) == PRIMARY
    assert planned.addresses == [A]


# The sentinels' answers, and the error if none of them could answer.
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
async def test_the_error_quotes_the_answer_of_each_sentinel(
    planned: PlannedSentinels, plan: Any, kind: type, words: str, cause: Any, *, blocks: bool
) -> None:
    planned.plan = plan
    with pytest.raises(redis.ConnectionError) as raised:
        await primary(Sentinels([A, B], "main", {}), blocks=blocks)
    assert (type(raised.value), str(raised.value)) == (kind, words)
    assert raised.value.__cause__ is cause


@pytest.mark.parametrize(("options", "has_tls"), [({}, False), ({"ssl": True}, True)])
def test_sentinels_show_no_password(options: dict[str, Any], *, has_tls: bool) -> None:
    watched = Sentinels([A], "main", options | {"password": "canary"})
    assert watched.has_tls is has_tls
    assert watched.addresses == (A,)
    assert repr(watched) == "<Sentinels of main at (('a', 1),)>"


def test_an_address_counts_as_a_former_primary_once_another_one_is_confirmed(
    planned: PlannedSentinels,
) -> None:
    assert planned.addresses == []
    watched, same, other = (Sentinels([A], name, {}) for name in ("main", "main", "other"))
    assert not watched.is_former(PRIMARY)
    watched.confirm(PRIMARY)
    assert not same.is_former(PRIMARY)
    assert same.is_former(("q", 6379))
    assert not other.is_former(("q", 6379))


# The parameters of a URL, and their meaning for connections to the primary and to sentinels.
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
        parameters = parameters_of(url, asynchronous=asynchronous)
        watched = parameters.pop("sentinels")
        assert (watched.addresses, watched.master_name) == (addresses, "main")
        assert options == {
            name: watched._options[name] for name in watched._options.keys() - sentinels._OPTIONS
        }
        plain: Any = SentinelConnection if asynchronous else BlockingSentinelConnection
        kind = parameters.pop("connection_class")
        assert issubclass(kind, redis.SSLConnection | redis.asyncio.SSLConnection) is tls
        assert (kind is plain) is not tls
        assert (parameters.pop("username"), parameters.pop("password"), parameters.pop("db")) == (
            "user",
            "pass",
            3,
        )
        assert parameters.pop("ssl_ca_certs", None) == ("x" if "ca_certs" in query else None)
        assert parameters == ({"ssl_cert_reqs": "required"} if tls else {})


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
    kind_of_connection = client.connection_pool.connection_class
    assert issubclass(kind_of_connection, kind)
    assert issubclass(kind_of_connection, redis.SSLConnection) is bool(options)
