"""How the poller makes a hub wait for its channels; without a server."""

import socket
from math import inf
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
import redis

from tests.unit.unstarted_poller import channel_of, poller_of
from worker.aio import transport as transport_module
from worker.aio.transport import poller
from worker.aio.transport.poller import TAKING, Poller

ERRORS = [redis.ConnectionError("gone"), redis.ResponseError("OOM"), OSError("reset")]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock."""
    clock = SimpleNamespace(s=1000.0)
    for module in (poller, transport_module):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock.s))
    return clock


def test_a_turn_is_asked_for_once_and_again_only_for_an_earlier_one(now: SimpleNamespace) -> None:
    cycle = poller_of()
    delays_s: list[float] = []
    cycle.hub.call_later = lambda delay_s, _: delays_s.append(delay_s)
    assert not cycle.is_nudged
    for delay_s in (1.0, 2.0, 0.5, 0.5):
        assert cycle.nudge(delay_s) is True
    assert delays_s == [1.0, 0.5]
    assert cycle.is_nudged
    now.s += 0.5
    assert not cycle.is_nudged
    cycle.nudge(3.0)
    assert delays_s == [1.0, 0.5, 3.0]
    cycle.hub = None
    assert cycle.nudge(0.1) is False


def test_before_each_wait_channels_acknowledge_and_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    taking, idle = channel_of(), channel_of(active_queues=set(), active_fanout_queues={"f"})
    stock, full = channel_of(takes=False), channel_of(takes=False)
    full.qos.can_consume.return_value = False
    cycle, calls = poller_of(taking, idle, stock, full), Mock()
    for name in ("_register_BRPOP", "_register_LISTEN", "_update_brpop_polling"):
        monkeypatch.setattr(cycle, name, getattr(calls, name), raising=False)
    cycle.on_poll_start()
    assert calls.mock_calls == [
        call._update_brpop_polling(),
        call._register_LISTEN(idle),
        call._register_BRPOP(stock),
    ]
    for channel in (taking, idle, stock, full):
        channel.flush_acks_when_due.assert_called_once_with()
        assert channel.ask.called is (channel is taking)


def test_looks_at_messages_of_dead_workers_and_renewed_bindings_are_chores_beside_the_hub() -> None:
    taking, stock, idle = channel_of(), channel_of(takes=False), channel_of(active_queues=set())
    cycle = poller_of(stock, idle, taking)
    order = Mock()
    taking.keep_leases, cycle.chores = order.keep_leases, order
    cycle.recover_soon()
    words = "look for messages of dead workers"
    assert order.mock_calls == [call.keep_leases(), call.begin(words, taking, taking.recover)]
    order.reset_mock()
    taking._expires, stock._expires, idle._expires = {"a": 1}, {}, {}
    cycle.maybe_refresh_binding_expiry()
    assert order.mock_calls == [
        call.begin("renew bindings", taking, taking.maybe_refresh_binding_expiry)
    ]
    for channel in (taking, stock, idle):
        channel.maybe_refresh_binding_expiry.assert_not_called()


# Whether a hub runs, the channel takes, and there are leases; and whether the hub waits.
@pytest.mark.parametrize(
    ("hub", "takes", "leases", "waits"),
    [
        (True, True, True, False),
        (False, True, True, True),
        (True, False, True, True),
        (True, True, False, True),
    ],
)
def test_one_channel_looks_for_messages_that_are_held_for_too_long(
    monkeypatch: pytest.MonkeyPatch, *, hub: bool, takes: bool, leases: bool, waits: bool
) -> None:
    stock = Mock()
    monkeypatch.setattr(poller.StockPoller, "maybe_restore_messages", stock)
    idle = channel_of(active_queues=set())
    first, second = (
        channel_of(takes=takes, unacked_restore_limit=7, unacked_restore_throttle=8)
        for _ in range(2)
    )
    if not leases:
        first.qos.keeper = None
    cycle = poller_of(idle, first, second)
    cycle.chores = Mock()
    cycle.hub = cycle.hub if hub else None
    cycle.maybe_restore_messages()
    assert stock.call_count == waits
    assert cycle.chores.begin.call_count == (not waits)
    if not waits:
        [(words, whose, chore)] = [each.args for each in cycle.chores.begin.call_args_list]
        assert (words, whose) == ("look for messages that are held for too long", first)
        chore()
        first.qos.restore_old.assert_called_once_with(num=7, interval=8)
    poller_of(idle).maybe_restore_messages()


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("recover", "cannot look for messages of dead workers: "),
        ("share", "cannot put the queues in order: "),
        ("maybe_refresh_binding_expiry", "cannot renew bindings now ("),
    ],
)
def test_one_channel_that_fails_does_not_keep_the_others_from_their_work(
    caplog: pytest.LogCaptureFixture, name: str, words: str, error: Exception
) -> None:
    failing, other = channel_of(), channel_of()
    getattr(failing, name).side_effect = error
    cycle = poller_of(failing, other)
    cycle.hub = None
    with caplog.at_level("DEBUG"):
        getattr(cycle, name)()
    getattr(other, name).assert_called_once_with()
    assert [message[: len(words)] for message in caplog.messages] == [words]
    getattr(failing, name).side_effect = ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        getattr(cycle, name)()


def test_the_queues_are_put_in_order_when_the_first_channel_wants_it(now: SimpleNamespace) -> None:
    soon, late = channel_of(share_at_s=1007.0), channel_of(share_at_s=1010.0)
    cycle = poller_of(late, soon)
    timers: list[Any] = []

    def call_later(pause_s: float, function: Any) -> Any:
        timers.append(Mock(pause_s=round(pause_s, 3), function=function))
        return timers[-1]

    cycle.hub.call_later = call_later
    cycle.share()
    cycle.share_by(1006.96)  # not noticeably earlier
    cycle.share_by(1008.0)
    assert [timer.pause_s for timer in timers] == [7.0]
    assert timers[0].function == cycle.share
    cycle.share_by(1006.9)
    cycle.share_by(1000.0)
    assert [timer.pause_s for timer in timers] == [7.0, 6.9, 0.05]
    assert [timer.cancel.called for timer in timers] == [True, True, False]
    soon.share_at_s = late.share_at_s = inf
    cycle.share()
    assert len(timers) == 3
    cycle.share_by(1002.0)
    assert len(timers) == 4
    cycle.hub.on_tick = {1, 2}
    cycle.ticks = {2}
    cycle.chores = Mock()
    cycle.end()
    cycle.chores.end.assert_called_once_with()
    assert timers[-1].cancel.called
    assert (cycle.hub.on_tick, cycle.ticks) == ({1}, set())
    cycle.hub = None
    cycle.share_by(0.0)
    assert len(timers) == 4
    Poller().end()  # before its first hub


def test_a_connection_is_opened_once_and_read_though_there_is_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    channel, calls = channel_of(handlers={TAKING: Mock()}), Mock()
    cycle = poller_of(channel)
    monkeypatch.setattr(cycle, "_register", calls.register)
    monkeypatch.setattr(cycle, "_client_registered", calls.registered)
    for is_there in (False, True):
        calls.registered.return_value = is_there
        assert cycle.connect(channel) is not is_there
    calls.register.assert_called_once_with(channel, channel.client, TAKING)
    stock = Mock()
    monkeypatch.setattr(poller.StockPoller, "on_readable", stock)
    cycle._fd_to_chan = {3: (channel, TAKING), 4: (channel, "LISTEN")}
    assert cycle.on_readable(3) is channel.handlers[TAKING].return_value
    stock.assert_not_called()
    for number in (4, 5):
        assert cycle.on_readable(number) is stock.return_value
    assert stock.call_args_list == [call(4), call(5)]


# When taking channels are to poll again, whether they take, and the longest wait.
@pytest.mark.parametrize(
    ("looks", "takes", "timeout_s", "waits_s"),
    [
        ([], True, None, None),
        ([], True, 5, 5),
        ([3, 2], True, None, 2),
        ([3, 2], True, 5, 2),
        ([3, 2], True, 1, 1),
        ([0.0], True, 5, 5),
        ([3], False, 5, 5),
        ([3], False, None, None),
    ],
)
def test_without_a_hub_the_queues_are_read_every_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
    *,
    looks: list[float],
    takes: bool,
    timeout_s: float | None,
    waits_s: float | None,
) -> None:
    stock = Mock()
    monkeypatch.setattr(poller.StockPoller, "get", stock)
    cycle = poller_of(*(channel_of(look_in_s=look, takes=takes) for look in looks))
    assert cycle.get(print, timeout_s) is stock.return_value
    assert stock.call_args == call(print, timeout=waits_s)


# The client's parser, and whether it holds a reply.
@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("kind", ["hiredis", "python", "unknown", "none"])
def test_a_reply_that_was_read_from_the_socket_is_seen(kind: str, *, waits: bool) -> None:
    parsers = {
        "hiredis": Mock(_reader=Mock(**{"has_data.return_value": waits})),
        "python": SimpleNamespace(_buffer=Mock(**{"unread_bytes.return_value": int(waits)})),
        "unknown": SimpleNamespace(_buffer=object()),
        "none": None,
    }
    connection = Mock(_parser=parsers[kind], **{"can_read.return_value": waits})
    assert poller.has_buffered(connection) is waits
    looks = [] if kind in {"hiredis", "python"} else [call(0)]
    assert connection.can_read.call_args_list == looks


def test_a_reply_is_waited_for_a_moment_if_the_connection_is_open() -> None:
    assert poller.arrives_soon(SimpleNamespace(_sock=None)) is False
    near, far = socket.socketpair()
    with near, far:
        assert poller.arrives_soon(SimpleNamespace(_sock=near)) is False
        far.send(b"+OK")
        assert poller.arrives_soon(SimpleNamespace(_sock=near)) is True
