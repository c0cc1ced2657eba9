"""The transport as kombu sees it: its names, its URLs, TLS.

And how acknowledgements are flushed.
"""

import ssl

import pytest
from kombu import Connection
from kombu.asynchronous.hub import Hub

from worker.aio.transport import SentinelTransport, TlsTransport, Transport, look_backoff
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
        assert connection.transport.driver_type == "redis"  # which Celery and Flower look at
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
    """The hub outlives a lost connection, and would call those of each one before."""
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


def test_a_channel_looks_later_with_each_look_in_vain_and_at_once_after_it_found_a_message() -> (
    None
):
    backoff, pauses_ms = LookBackoff(), []
    for messages in (0, 0, 0, 0, 0, 0, 3, 0):
        pauses_ms.append(round(backoff.begin(workers=8, now_s=100.0) * 1000))
        assert backoff.until_s == 100.0 + pauses_ms[-1] / 1000
        backoff.note_look(messages)
    assert pauses_ms == [0, 10, 20, 40, 80, 100, 100, 0]


# How many workers there are, and for how many milliseconds the last one of them waits.
@pytest.mark.parametrize(("workers", "last_ms"), [(8, 0), (9, 18), (200, 400), (5_000, 2_000)])
def test_where_many_workers_wait_they_look_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, workers: int, last_ms: float
) -> None:
    backoff = LookBackoff()
    for part, waits_ms in ((0.0, 0), (0.5, last_ms / 2), (1.0, last_ms)):
        monkeypatch.setattr(look_backoff.random, "random", lambda part=part: part)
        assert round(backoff.begin(workers=workers, now_s=100.0) * 1000) == waits_ms
    backoff.note_look(0)
    monkeypatch.setattr(look_backoff.random, "random", lambda: 0.0)
    assert round(backoff.begin(workers=workers, now_s=100.0) * 1000) == 10, "it looked in vain"
