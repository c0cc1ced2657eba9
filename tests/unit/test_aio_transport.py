"""The transport as kombu sees it: its URLs, TLS, its hub, its channels at the end.

Also how acknowledgements are flushed, and when a channel polls again.
"""

import ssl
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
import redis
from kombu import Connection
from kombu.asynchronous.hub import Hub

from tests.unit.unstarted_poller import poller_of
from worker.aio import transport as transport_module
from worker.aio.transport import (
    Channel,
    SentinelTransport,
    TlsTransport,
    Transport,
    look_backoff,
    poller,
    sharing,
)
from worker.aio.transport.look_backoff import LookBackoff
from worker.aio.transport.unacked import Unacked

OURS = "worker.aio.transport:Transport"
SENTINEL = "worker.aio.transport:SentinelTransport"
TLS = "worker.aio.transport:TlsTransport"


@pytest.mark.parametrize(
    ("url", "transport", "kind", "shown"),
    [
        ("redis://:secret@host:7000/2", OURS, Transport, "redis://:**@host:7000/2"),
        # encrypted
        ("rediss://:secret@host:7000/2", TLS, TlsTransport, "rediss://:**@host:7000/2"),
        # found by sentinels
        (
            "sentinel://:secret@host:7000/2",
            SENTINEL,
            SentinelTransport,
            "sentinel://:**@host:7000/2",
        ),
    ],
)
def test_a_named_transport_serves_a_usual_url_and_shows_it_without_its_password(
    url: str, transport: str, kind: type, shown: str
) -> None:
    with Connection(url, transport=transport) as connection:
        assert type(connection.transport) is kind
        assert connection.transport.driver_type == "redis"  # Celery and Flower read it
        assert connection.as_uri() == shown
        assert (connection.hostname, connection.port, connection.virtual_host) == (
            "host",
            7000,
            "2",
        )


def test_the_tls_transport_checks_certificates_unless_the_url_says_otherwise() -> None:
    with Connection("rediss://host", transport=TLS) as connection:
        assert connection.transport.client.ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    with Connection("rediss://host?ssl_cert_reqs=none", transport=TLS) as connection:
        assert connection.transport.client.ssl == {"ssl_cert_reqs": ssl.CERT_NONE}


def test_a_connection_that_is_closed_leaves_no_callback_in_the_hub() -> None:
    """The hub outlives a lost connection, and would call the callbacks of all earlier ones."""
    hub = Hub()
    before = set(hub.on_tick)
    with Connection("redis://host", transport=OURS) as connection:
        transport = connection.transport
        transport.register_with_event_loop(transport, hub)
        ticks = hub.on_tick - before
        assert ticks == transport.cycle.ticks != set()
        transport.close_connection(transport)
        assert hub.on_tick == before
        transport.close_connection(transport)  # Celery may close it again
    hub.close()


class _Holder:
    def __init__(self, *, fails: bool) -> None:
        self.fails = fails
        self.flushed = False

    def flush_acks(self) -> None:
        self.flushed = True
        if self.fails:
            raise OSError("gone")


def test_one_holder_that_fails_does_not_keep_the_others_from_flushing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry = Unacked()
    holders = [_Holder(fails=True), _Holder(fails=False), _Holder(fails=True)]
    for holder in holders:
        registry.register(holder)
    registry.flush_acks()
    assert all(holder.flushed for holder in holders)
    assert caplog.text.count("cannot send acknowledgements") == 2


def test_a_channel_polls_later_after_each_poll_without_a_message_and_at_once_after_a_message() -> (
    None
):
    backoff, pauses_ms = LookBackoff(), []
    for messages in (0, 0, 0, 0, 0, 0, 3, 0):
        pauses_ms.append(round(backoff.begin(workers=8, now_s=100.0) * 1000))
        assert backoff.until_s == 100.0 + pauses_ms[-1] / 1000
        backoff.note_look(messages)
    assert pauses_ms == [0, 10, 20, 40, 80, 100, 100, 0]


# The number of workers, and for how many milliseconds the last one waits.
@pytest.mark.parametrize(("workers", "last_ms"), [(8, 0), (9, 18), (200, 400), (5_000, 2_000)])
def test_if_many_workers_wait_they_look_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, workers: int, last_ms: float
) -> None:
    backoff = LookBackoff()
    for part, waits_ms in ((0.0, 0), (0.5, last_ms / 2), (1.0, last_ms)):
        monkeypatch.setattr(look_backoff.random, "random", lambda part=part: part)
        assert round(backoff.begin(workers=workers, now_s=100.0) * 1000) == waits_ms
    backoff.note_look(0)
    monkeypatch.setattr(look_backoff.random, "random", lambda: 0.0)
    assert round(backoff.begin(workers=workers, now_s=100.0) * 1000) == 10, (
        "the channel polled without success"
    )


ERRORS = [redis.ConnectionError("gone"), redis.ResponseError("OOM"), OSError("reset")]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock."""
    clock = SimpleNamespace(s=1000.0)
    for module in (poller, transport_module):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.s))
    return clock


def transport_of(kind: type[Any] = Transport, **options: Any) -> Any:
    transport: Any = object.__new__(kind)
    transport.cycle = poller_of()
    transport.client = SimpleNamespace(transport_options=options)
    return transport


@pytest.mark.parametrize("kind", [Transport, TlsTransport, SentinelTransport])
def test_acknowledging_asks_the_hub_for_no_call_of_its_own(kind: Any) -> None:
    assert kind.notes_acks is True


# The options, and how often the channel looks for dead workers.
@pytest.mark.parametrize(
    ("options", "every_s"),
    [({}, 5), ({"lease_s": 8}, 2), ({"lease_s": "600"}, 5), ({"lease_s": 0}, None)],
)
def test_a_hub_waits_for_the_connections_and_calls_nothing_of_kombus_own(
    monkeypatch: pytest.MonkeyPatch,
    now: SimpleNamespace,
    options: dict[str, Any],
    every_s: float | None,
) -> None:
    transport, tick_of_another = transport_of(**options), object()
    loop = Mock(on_tick={tick_of_another}, readers={3: ()})

    registered: list[Any] = []

    def register(_: Any, connection: Any, hub: Any) -> None:
        registered.append((connection.client, hub))
        hub.on_tick.add(object())

    monkeypatch.setattr(transport_module.StockTransport, "register_with_event_loop", register)
    transport.cycle.share_by = Mock()
    transport.register_with_event_loop(SimpleNamespace(client=transport.client), loop)
    assert registered == [(transport.client, loop)]
    assert transport.cycle.hub is loop
    [tick] = loop.on_tick - {tick_of_another}
    assert transport.cycle.ticks == {tick}
    assert tick_of_another in loop.on_tick
    transport.cycle.share_by.assert_called_once_with(now.s + sharing.SHARE_S)
    repeated = [call(every_s, transport.cycle.recover_soon)] if every_s else []
    assert loop.call_repeatedly.call_args_list == repeated
    assert isinstance(tick, partial)
    transport.cycle._fd_to_chan = {3: (), 4: ()}
    transport.cycle.on_poll_start = Mock()
    tick()
    transport.cycle.on_poll_start.assert_called_once_with()
    loop.add_reader.assert_called_once_with(4, transport.on_readable, 4)  # 3 was there already


def test_each_channel_of_a_connection_is_closed_though_the_server_is_down(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    transport, stock = transport_of(), Mock()
    monkeypatch.setattr(transport_module.StockTransport, "close_connection", stock)
    failing = [Mock(spec=Channel) for _ in range(4)]
    for channel, error in zip(failing, [*ERRORS, AttributeError("_pool")], strict=True):
        channel.close.side_effect = error
    stranger, whole = Mock(**{"close.side_effect": OSError("of kombu's own")}), Mock()
    transport._avail_channels, transport.channels = [stranger, failing[0]], [*failing[1:], whole]
    transport.cycle.end = Mock()
    with caplog.at_level("DEBUG"):
        transport.close_connection(transport)
    for channel in failing:
        channel.abandon.assert_called_once_with()
    for channel in (stranger, whole):
        channel.close.assert_called_once_with()
        channel.abandon.assert_not_called()
    assert [*transport._avail_channels, *transport.channels] == []
    transport.cycle.end.assert_called_once_with()
    assert stock.call_count == 1
    assert caplog.text.count("cannot close a channel properly: ") == 5
    transport.channels = [Mock(**{"close.side_effect": ZeroDivisionError})]
    with pytest.raises(ZeroDivisionError):
        transport.close_connection(transport)
