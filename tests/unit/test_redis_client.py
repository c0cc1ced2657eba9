"""The clients of a process: the options that their connections understand."""

import asyncio
import ssl
from types import SimpleNamespace
from typing import Any

import pytest

from config.settings import Settings
from worker.redis import client as client_module
from worker.redis.client import IdleClosingPool, connect, connect_to_broker


# An option of the URL, as Celery accepts it too, and its meaning.
@pytest.mark.parametrize(
    ("query", "meaning"),
    [
        ("", ssl.CERT_REQUIRED),  # checked by default
        ("?ssl_cert_reqs=required", ssl.CERT_REQUIRED),  # redis-py's name
        (
            "?ssl_cert_reqs=CERT_REQUIRED",
            ssl.CERT_REQUIRED,
        ),  # OpenSSL's name, as in Celery's documentation
        ("?ssl_cert_reqs=CERT_NONE", ssl.CERT_NONE),  # as some hosters write it
        ("?db=1&ssl_cert_reqs=CERT_OPTIONAL", ssl.CERT_OPTIONAL),  # after another option
    ],
)
async def test_the_pool_takes_the_same_tls_url_as_celery(
    query: str, meaning: ssl.VerifyMode
) -> None:
    client = connect(Settings(redis_url=f"rediss://:pw-CERT_NONE@127.0.0.1:6390/0{query}"))  # type: ignore[arg-type]
    connection = client.connection_pool.make_connection()
    assert connection.ssl_context.cert_reqs is meaning
    assert connection.password == "pw-CERT_NONE"
    await client.aclose()


async def test_a_server_that_hangs_is_given_up_within_15_seconds() -> None:
    client = connect(Settings())
    options = client.connection_pool.connection_kwargs
    assert options["socket_timeout"] + options["socket_connect_timeout"] == 15
    assert options["decode_responses"] is True
    assert options["encoding_errors"] == "replace", "a value that is not text must not hide others"
    assert client.connection_pool.max_connections < 20, "a hosted server accepts few connections"
    await client.aclose()


# The Redis of the jobs and that of the key pool, and whether one client serves both.
@pytest.mark.parametrize(
    ("pool", "is_same"), [("redis://one:6379/0", True), ("redis://other:6379/0", False)]
)
async def test_a_server_that_is_both_broker_and_pool_has_one_client(
    pool: str, *, is_same: bool
) -> None:
    settings = Settings(redis_url=pool, broker_url="redis://one:6379/0")  # type: ignore[arg-type]
    pools = connect(settings)
    broker = connect_to_broker(settings, pools)
    assert broker is not None
    assert (broker is pools) is is_same
    assert broker.connection_pool.connection_kwargs["host"] == "one"
    for client in (pools, broker):
        await client.aclose()


class Connection:
    """A connection that is closed at the end, or earlier."""

    def __init__(self, **_: Any) -> None:
        self.is_connected = False
        self.closed_how: list[dict[str, Any]] = []

    async def connect(self) -> None:
        self.is_connected = True

    async def disconnect(self, **how: Any) -> None:
        self.is_connected = False
        self.closed_how.append(how)

    async def can_read(self, *_: Any) -> bool:
        return False

    can_read_destructive = can_read

    async def re_auth(self) -> None:
        pass

    def should_reconnect(self) -> bool:
        return False


async def test_a_connection_that_is_no_longer_used_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timers: list[tuple[float, Any]] = []
    loop = SimpleNamespace(call_later=lambda *timer: timers.append(timer) or object())
    patched = SimpleNamespace(get_running_loop=lambda: loop, create_task=asyncio.create_task)
    monkeypatch.setattr(client_module, "asyncio", patched)
    pool: Any = IdleClosingPool(connection_class=Connection, max_connections=6, timeout=1)
    pool.update_connection_kwargs = lambda **_: None
    first, second = [await pool.get_connection() for _ in range(2)]
    for connection in (second, first):
        await pool.release(connection)
    [(pause_s, look)] = timers
    assert pause_s == 7
    look()
    assert len(timers) == 2, "both connections were used"
    again = await pool.get_connection()
    await pool.release(again)
    idle = second if again is first else first
    timers[1][1]()
    await pool._closing
    assert (idle.closed_how, again.closed_how) == ([{"nowait": True}], [])
    taken = await pool.get_connection()
    timers[2][1]()
    assert taken is again
    await asyncio.sleep(0)
    assert again.closed_how == [], "the connection is in use"
    await pool.release(again)
    for _, later in timers[3:4]:
        later()
    timers[4][1]()
    await pool._closing
    assert again.closed_how == [{"nowait": True}]
    timers[5][1]()
    assert len(timers) == 6, "all connections are closed"
    await pool.release(await pool.get_connection())
    assert len(timers) == 7
