"""A channel without a server: how it renews leases, delivers a batch, and ends."""

import inspect
import json
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
import redis
from kombu.transport.redis import Channel as StockChannel

from worker.aio.transport import Channel, unacked
from worker.aio.transport.leases import LeaseKeeper
from worker.aio.transport.qos import TransportQoS

ERRORS = [redis.ConnectionError("gone"), redis.ResponseError("OOM"), OSError("reset")]


def channel_of(**changes: Any) -> Any:
    """A channel that has never connected."""
    channel: Any = Channel.__new__(Channel)
    channel.connection = Mock(_callbacks={"q": ()})
    fields = {"closed": False, "takes": True, "_in_poll": None, "_qos": Mock(keeper=None)}
    for name, value in (
        fields | {"_active_queues": ["q"], "lease_s": 60.0, "active_fanout_queues": set()} | changes
    ).items():
        setattr(channel, name, value)
    channel.connection.mock_add_spec(None)
    return channel


@pytest.fixture(autouse=True)
def _no_stock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace kombu's own end of a channel, which requires a channel that has begun."""
    for name in ("close", "_disconnect_pools", "_on_connection_disconnect"):
        monkeypatch.setattr(StockChannel, name, lambda *_: None)


@pytest.mark.parametrize(("lease_s", "every_s"), [(60.0, 5.0), (8.0, 2.0), (0.0, 5.0), (-1.0, 5.0)])
def test_dead_workers_are_looked_for_four_times_a_lease(lease_s: float, every_s: float) -> None:
    assert channel_of(lease_s=lease_s).recover_every_s == every_s


@pytest.mark.parametrize(
    ("takes", "queues", "recovers"), [(True, ["q"], 1), (False, ["q"], 0), (True, [], 0)]
)
def test_only_a_channel_that_takes_messages_looks_for_those_of_dead_workers(
    *, takes: bool, queues: list[str], recovers: int
) -> None:
    channel = channel_of(takes=takes, _active_queues=queues, sharing=Mock())
    channel.recover()
    assert channel._qos.recover.call_count == recovers
    channel.share()
    assert channel.sharing.share.call_count == takes


# The lease and the visibility timeout in seconds, and the length of the keeper's leases.
@pytest.mark.parametrize(
    ("lease_s", "visible_s", "kept_s"),
    [(60, 3600, 60), (60, 0, 60), (60, 20, 20), (1, 3600, 1), (0, 3600, None)],
)
def test_a_server_has_one_keeper_of_leases_of_each_length(
    monkeypatch: pytest.MonkeyPatch, lease_s: float, visible_s: float, kept_s: float | None
) -> None:
    monkeypatch.setattr(LeaseKeeper, "join", joined := Mock())
    monkeypatch.setattr(unacked.of_process, "_keepers", {})
    client = SimpleNamespace(hostname="h", port=1, virtual_host="0", userid=None)
    keepers = []
    for _ in range(2):
        qos = Mock(keeper=None, leases_key="leases", pulse_key="pulse")
        channel = channel_of(
            lease_s=lease_s, visibility_timeout=visible_s, _qos=qos, global_keyprefix="p.",
            unacked_key="unacked", unacked_index_key="index",
        )  # fmt: skip
        channel.connection.client = client
        monkeypatch.setattr(channel, "_connparams", dict, raising=False)
        keepers.append(channel.keep_leases())
        assert channel.keep_leases() is keepers[-1] is qos.keeper
    if kept_s is None:
        assert keepers == [None, None]
        return
    assert keepers[0] is keepers[1]
    assert keepers[0].lease_s == kept_s
    assert joined.call_count == 2
    [key] = unacked.of_process._keepers
    assert key == ("h", 1, "0", None, "p.unacked", kept_s)


@pytest.mark.parametrize("keeper", [None, object()])
@pytest.mark.parametrize("error", [None, *ERRORS])
def test_a_channel_that_closes_acknowledges_and_hangs_up(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception | None,
    keeper: Any,
) -> None:
    channel, calls = channel_of(_qos=Mock(keeper=keeper)), Mock()
    calls.flush_acks.side_effect = error
    for name in ("flush_acks", "_drain_reply", "_disconnect_pools"):
        monkeypatch.setattr(channel, name, getattr(calls, name), raising=False)
    monkeypatch.setattr(StockChannel, "close", lambda _: calls.close())
    channel.__dict__["client"] = client = Mock()
    channel.close()
    assert calls.mock_calls == [
        call._drain_reply(),
        call.flush_acks(),
        call.close(),
        call._disconnect_pools(),
    ]
    client.connection_pool.disconnect.assert_called_once_with()
    words = f"cannot acknowledge at the end ({error}); the broker redelivers the messages"
    assert caplog.messages == [words] * (error is not None and keeper is None)
    calls.reset_mock()
    channel.closed = True
    channel.close()
    assert calls.mock_calls == [call.close(), call._disconnect_pools()]


@pytest.mark.parametrize("error", [None, *ERRORS, AttributeError("_pool")])
def test_an_abandoned_channel_puts_back_what_it_can(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    channel = channel_of()
    monkeypatch.setattr(channel, "_close_reopened", closed_reopened := Mock(), raising=False)
    channel._qos.restore_unacked_once.side_effect = error
    channel.abandon()
    assert channel.closed is True
    channel.connection.cycle.discard.assert_called_once_with(channel)
    channel._qos.restore_unacked_once.assert_called_once_with()
    closed_reopened.assert_called_once_with()
    channel.connection = channel._qos = None
    channel.abandon()
    assert closed_reopened.call_count == 2


def test_a_channel_without_a_connection_raises_a_connection_error() -> None:
    channel = channel_of()
    channel.connection.client = None
    for connection in (channel.connection, None):
        channel.connection = connection
        with pytest.raises(redis.ConnectionError, match=r"^this channel's connection is closed$"):
            channel._connparams()


@pytest.mark.parametrize("error", [None, *ERRORS])
def test_the_messages_of_a_reply_that_is_on_its_way_go_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception | None
) -> None:
    connection = object()
    channel = channel_of(_in_poll=connection)
    replies: list[Any] = [None, [("q", "t1", b"x"), ("r", "t2", b"y")]]

    def read(read_from: Any) -> Any:
        assert read_from is connection
        if len(replies) == 1 and error is not None:
            raise error
        channel._in_poll = connection if len(replies) > 1 else None
        return replies.pop(0)

    monkeypatch.setattr(channel, "_read_reply", read, raising=False)
    with caplog.at_level("DEBUG"):
        channel._drain_reply()
    assert channel._in_poll is None
    returned = [call([("t1", b"x", ["q"]), ("t2", b"y", ["r"])])]
    assert channel._qos.return_or_release.call_args_list == ([] if error else returned)
    assert ("a reply was lost with its connection" in caplog.text) is (error is not None)
    channel.takes, channel._in_poll = False, connection
    channel._drain_reply()
    assert channel._in_poll is connection


# Whether the channel takes, whether the connection has the request, whether there are leases.
@pytest.mark.parametrize(
    ("takes", "is_asked", "leases", "released"),
    [(True, True, True, 1), (False, True, True, 0), (True, False, True, 0), (True, True, False, 0)],
)
def test_messages_that_an_unanswered_request_took_are_released(
    *, takes: bool, is_asked: bool, leases: bool, released: int
) -> None:
    connection, keeper = object(), Mock()
    channel = channel_of(
        takes=takes,
        _in_poll=connection if is_asked else object(),
        _qos=Mock(keeper=keeper if leases else None),
        _suffix="@x.",
        _requests=255,
        replies=Mock(**{"forget.return_value": is_asked}),
    )
    qos = channel._qos
    channel._on_connection_disconnect(connection)
    channel.replies.forget.assert_called_once_with(connection)
    assert qos.note_unanswered.call_count == is_asked
    assert keeper.release_unanswered.call_args_list == [call("@x.ff")] * released
    channel._qos = None
    channel._on_connection_disconnect(connection)


class Delivery:
    """A channel whose consumer takes messages, or fails."""

    def __init__(self) -> None:
        self.delivered: list[tuple[str, str]] = []
        self.errors: dict[str, Exception] = {}
        self.noted: dict[str, Any] = {}
        self.qos = Mock(_delivered=self.noted, unreadable_key="unacked.unreadable", moved=None)
        self.channel = channel_of(_qos=self.qos, sep="|", _queue_cycle=Mock(), delayed_queues=())
        self.channel.connection._deliver = self._deliver

    def _deliver(self, message: Any, queue: str) -> None:
        tag = message["properties"]["delivery_tag"]
        assert self.qos.moved == tag
        self.delivered.append((tag, queue))
        if (error := self.errors.get(tag)) is not None:
            raise error
        self.noted[tag] = message


@pytest.fixture
def delivery() -> Delivery:
    return Delivery()


def text(**more: Any) -> bytes:
    return json.dumps({"properties": {}, "headers": {}} | more).encode()


TAKEN = [
    ("q", "t1", text()),
    ("q|3", "t2", b"no JSON"),
    ("gone", "t3", text()),
    ("q", "t4", text()),
]


def test_a_batch_is_delivered_and_messages_without_a_consumer_go_back(
    delivery: Delivery, caplog: pytest.LogCaptureFixture
) -> None:
    assert delivery.channel._deliver(TAKEN) is True
    assert delivery.delivered == [("t1", "q"), ("t4", "q")]
    assert delivery.qos.give_back.call_args_list == [
        call([("t2", b"no JSON", ["unacked.unreadable"])])
    ]
    assert delivery.qos.return_or_release.call_args_list == [call([("t3", text(), ["gone"])])]
    assert caplog.messages == ["moved an entry of q that is not a message to unacked.unreadable"]
    assert delivery.channel._queue_cycle.rotate.call_args_list == [call("q")] * 2
    assert delivery.qos.moved is None


@pytest.mark.parametrize("why", ["closed", "full", "cancelled"])
def test_nothing_is_delivered_to_a_consumer_that_takes_nothing_any_more(
    delivery: Delivery, why: str
) -> None:
    delivery.channel.closed = why == "closed"
    delivery.qos.can_consume.return_value = why != "full"
    if why == "cancelled":
        delivery.channel.connection._callbacks = {}
    assert delivery.channel._deliver(TAKEN) is False
    back = [(tag, body, [name]) for name, tag, body in TAKEN]
    assert delivery.qos.return_or_release.call_args_list == [call(back)]
    assert delivery.delivered == []


# The consumer's exception, whether it had the message by then, and what goes back with the others.
@pytest.mark.parametrize(
    ("error", "noted", "raises", "back"),
    [
        (ValueError(), False, False, []),  # not a message of Celery
        (ValueError(), True, True, ["t2", "t3", "t4"]),
        (redis.ConnectionError("gone"), False, True, ["t1", "t2", "t3", "t4"]),
        (redis.ConnectionError("gone"), True, True, ["t2", "t3", "t4"]),
        (OSError("reset"), False, True, ["t1", "t2", "t3", "t4"]),
    ],
)
def test_of_a_batch_whose_consumer_raises_nothing_is_lost(
    delivery: Delivery, error: Exception, back: list[str], *, noted: bool, raises: bool
) -> None:
    delivery.errors["t1"] = error
    if noted:
        delivery.noted["t1"] = object()
    if raises:
        with pytest.raises(type(error)):
            delivery.channel._deliver(TAKEN)
        [(returned,)] = [each.args for each in delivery.qos.return_or_release.call_args_list]
        assert [tag for tag, *_ in returned] == back
    else:
        assert delivery.channel._deliver(TAKEN) is True
        aside = [each.args[0][0][0] for each in delivery.qos.give_back.call_args_list]
        assert aside == ["t1", "t2"]
    assert delivery.qos.moved is None


def test_a_delayed_message_takes_the_turn_of_the_queue_that_it_goes_before(
    delivery: Delivery,
) -> None:
    delivery.channel.delayed_queues = {"q": "behind"}
    delivery.channel._deliver(TAKEN[:1])
    assert delivery.channel._queue_cycle.rotate.call_args_list == [call("q"), call("behind")]


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_channel_forgets_the_connections_for_commands_that_it_closes(
    monkeypatch: pytest.MonkeyPatch, *, is_shared: bool
) -> None:
    closed = Mock()
    monkeypatch.setattr(StockChannel, "_disconnect_pools", lambda _: closed())
    channel = channel_of(_pool=object())
    channel.connection.commands = pool = channel._pool if is_shared else object()
    channel._disconnect_pools()
    assert channel.connection.commands is (None if is_shared else pool)
    channel.connection = None
    channel._disconnect_pools()
    assert closed.call_count == 2


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (Channel, "client"),
        (Channel, "subclient"),
        (TransportQoS, "unacked_key"),
        (TransportQoS, "unacked_index_key"),
        (TransportQoS, "leases_key"),
        (TransportQoS, "unreadable_key"),
    ],
)
def test_an_attribute_that_is_read_for_each_message_costs_no_call(owner: type, name: str) -> None:
    # Without `__set__` Python reads the value from the instance and ignores the descriptor.
    assert not hasattr(type(inspect.getattr_static(owner, name)), "__set__")
