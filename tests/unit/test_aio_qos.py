"""A channel's acknowledgements, and how many messages it has room for."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
import redis

from tests.unit.unstarted_broker import AWAY, FULL, KEYS, Broker, deliver, message, unstarted
from worker.aio.transport import qos as qos_module
from worker.aio.transport import restoring, unacked
from worker.aio.transport.qos import TransportQoS
from worker.aio.transport.scripts import FORGET
from worker.aio.transport.unacked import Unacked


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    clocked = Broker()
    monkeypatch.setattr(qos_module, "time", SimpleNamespace(monotonic=lambda: clocked.now_s))
    return clocked


@pytest.fixture
def qos(broker: Broker) -> TransportQoS:
    return unstarted(broker)


def forget(*tags: str) -> list[Any]:
    return ["EVAL", FORGET, 3, *KEYS, *tags]


def test_a_first_acknowledgement_waits_for_the_end_of_the_turn_and_the_next_ones_for_others(
    broker: Broker, qos: TransportQoS
) -> None:
    deliver(qos, "1", "2", "3", "4")
    qos.ack("1")
    broker.cycle.nudge.assert_not_called()
    assert broker.sent == []
    assert sorted(qos.held_tags()) == ["1", "2", "3", "4"]
    qos.flush_acks_when_due()
    assert broker.sent == [forget("1")]
    assert sorted(qos.held_tags()) == ["2", "3", "4"]
    broker.now_s += 0.004
    qos.ack("2")
    [(wait_s,)] = [each.args for each in broker.cycle.nudge.call_args_list]
    assert round(wait_s, 6) == 0.006
    qos.flush_acks_when_due()
    assert broker.sent == []
    broker.now_s += 0.006001
    qos.flush_acks_when_due()
    assert broker.sent == [forget("2")]
    broker.cycle.nudge.return_value = False  # no hub runs
    qos.ack("3")
    assert broker.sent == [forget("3")]
    broker.now_s += 1
    broker.cycle.hub = None
    qos.ack("4")
    assert broker.sent == [forget("4")]
    qos.flush_acks_when_due()
    assert broker.sent == []


def test_many_acknowledgements_are_sent_at_once_and_old_ones_though_no_turn_ends(
    broker: Broker, qos: TransportQoS
) -> None:
    deliver(qos, *(tags := [str(number) for number in range(103)]))
    qos.ack("0")
    qos.flush_acks()
    broker.sent  # noqa: B018
    for tag in tags[1:100]:
        qos.ack(tag)
    qos.flush_acks_when_due()
    assert broker.sent == []
    qos.ack("100")
    qos.flush_acks_when_due()
    assert broker.sent == [forget(*tags[1:101])]
    assert [list(each.args[1:]) for each in broker.send_beside.call_args_list] == [
        forget(*tags[1:101])
    ], "an open taking connection would send them"
    broker.now_s += 1
    qos.ack("101")
    broker.now_s += 0.1001
    qos.ack("102")  # in a warm shutdown the hub exists and does not run
    assert broker.sent == [forget("101", "102")]


def test_acknowledgements_are_sent_in_parts_and_those_that_fail_are_kept(
    broker: Broker, qos: TransportQoS
) -> None:
    deliver(qos, *(tags := [str(number) for number in range(1001)]))
    for tag in tags:
        qos.ack(tag)
    broker.execute_command.side_effect = [1, AWAY]
    with pytest.raises(redis.ConnectionError):
        qos.flush_acks()
    assert broker.sent == [forget(*tags[:500]), forget(*tags[500:1000])]
    broker.execute_command.side_effect = None
    broker.send_beside.return_value = True
    qos.flush_acks(beside=True)
    beside = [list(each.args) for each in broker.send_beside.call_args_list]
    assert [command for _, *command in beside] == [forget(*tags[500:1000]), forget(*tags[1000:])]
    qos.flush_acks(beside=True)
    assert broker.send_beside.call_count == 2, "the acknowledgements are being sent"
    assert list(qos.held_tags()) == tags[500:]
    (confirm, *_), (refuse, *_) = beside
    confirm(500)
    assert list(qos.held_tags()) == tags[1000:]
    refuse(FULL)
    confirm(1)  # too late: they are sent again
    assert broker.sent == []
    qos.flush_acks()
    assert broker.sent == [forget(*tags[1000:])]
    qos.flush_acks()
    assert broker.sent == []


@pytest.mark.parametrize("error", [AWAY, OSError("reset")])
def test_an_acknowledgement_that_cannot_be_sent_goes_with_the_next(
    broker: Broker, qos: TransportQoS, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    deliver(qos, "1", "2")
    broker.cycle.hub = None
    broker.execute_command.side_effect = error
    qos.ack("1")
    assert caplog.messages == [f"cannot acknowledge now ({error}); 1 acknowledgements wait"]
    broker.execute_command.side_effect = None
    broker.sent  # noqa: B018
    qos.ack("2")
    assert broker.sent == [forget("1", "2")]


def test_a_server_that_refuses_acknowledgements_is_left_alone_for_a_second(
    broker: Broker, qos: TransportQoS, caplog: pytest.LogCaptureFixture
) -> None:
    deliver(qos, "1")
    qos.ack("1")
    broker.execute_command.side_effect = FULL
    for tries in (1, 1, 2):
        qos.flush_acks_when_due()
        assert broker.execute_command.call_count == tries
        broker.now_s += 0.5
    assert caplog.messages == [f"the broker refuses acknowledgements ({FULL}); 1 wait"] * 2
    broker.execute_command.side_effect = AWAY
    broker.now_s += 1
    with pytest.raises(redis.ConnectionError):
        qos.flush_acks_when_due()


def test_on_a_closed_channel_the_keeper_acknowledges_or_the_broker_delivers_again(
    broker: Broker, qos: TransportQoS
) -> None:
    deliver(qos, "1")
    broker.closed = True
    with pytest.raises(redis.ConnectionError, match=r"^the channel of this message is closed"):
        qos.ack("1")
    qos.keeper = broker.keeper
    for tag in ("1", "of another channel"):
        qos.ack(tag)
        assert broker.keeper.acknowledge.call_args == call([tag])
    assert broker.sent == []
    assert list(qos.held_tags()) == []
    deliver(qos, "2", "3")
    qos.reject("2", requeue=False)
    assert broker.keeper.acknowledge.call_args == call(["2"])
    qos.reject("3", requeue=True)
    broker.keeper.release.assert_called_once_with(["3"])
    assert list(qos.held_tags()) == []


@pytest.mark.parametrize("leases", [True, False])
def test_a_rejected_message_goes_back_behind_the_acknowledgements_or_stays_if_the_broker_refuses(
    broker: Broker,
    qos: TransportQoS,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    leases: bool,
) -> None:
    qos.keeper = broker.keeper if leases else None
    restored = Mock()
    monkeypatch.setattr(qos, "restore_by_tag", restored)
    deliver(qos, "1", "2", "3", "4")
    qos.ack("1")
    qos.reject("2", requeue=True)
    assert broker.sent[0] == forget("1")
    restored.assert_called_once_with("2", leftmost=True)
    qos.reject("4")
    restored.side_effect = FULL
    qos.reject("3", requeue=True)
    assert caplog.messages == [
        f"the broker takes back no message now ({FULL}); it redelivers this one later"
    ]
    assert broker.keeper.release.call_args_list == [call(["3"])] * leases
    assert "3" not in list(qos.held_tags())
    restored.side_effect = AWAY
    with pytest.raises(redis.ConnectionError):
        qos.reject("3", requeue=True)


# The most messages at once, those whose jobs outlive their channel, the delivered ones, those being
# fetched, whether a hub runs; and how many may be taken.
@pytest.mark.parametrize(
    ("prefetch", "detached", "delivered", "coming", "hub", "room"),
    [
        (10, 0, 0, 0, True, 7),
        (10, 0, 4, 0, True, 6),
        (10, 0, 4, 2, True, 4),
        (10, 0, 4, 7, True, 0),
        (10, 4, 3, 1, True, 2),
        (10, 4, 6, 0, True, 0),
        (10, 9, 3, 0, True, 0),
        (0, 0, 4, 2, True, 7),  # without a limit
        (10, 0, 4, 0, False, 1),  # without a hub, one at a time
        (10, 0, 4, 1, False, 0),
        (4, 0, 4, 0, False, 0),
    ],
)
def test_there_is_room_for_what_the_prefetch_window_still_allows(
    broker: Broker,
    qos: TransportQoS,
    *,
    prefetch: int,
    detached: int,
    delivered: int,
    coming: int,
    hub: bool,
    room: int,
) -> None:
    qos.prefetch_count, qos.keeper, broker.keeper.detached = prefetch, broker.keeper, detached
    broker.cycle.hub = object() if hub else None
    deliver(qos, *map(str, range(delivered)))
    assert qos.room(most=7, coming=coming) == room
    if not detached:
        qos.keeper = None
        assert qos.room(most=7, coming=coming) == room


@pytest.mark.parametrize(("answer", "coming", "room"), [(True, 0, 1), (True, 1, 0), (False, 0, 0)])
def test_a_rule_of_celerys_own_says_yes_or_no_to_one_message(
    qos: TransportQoS, *, answer: bool, coming: int, room: int
) -> None:
    qos.can_consume = lambda: answer  # type: ignore[method-assign]
    assert qos.room(most=7, coming=coming) == room


def test_a_message_that_the_server_has_not_moved_is_entered(
    broker: Broker, qos: TransportQoS, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = Mock()
    monkeypatch.setattr(restoring.StockQoS, "append", entered)
    deliver(qos, "1")
    entered.assert_not_called()
    assert list(qos.held_tags()) == ["1"]
    qos.append(entry := message("2"), "2")
    entered.assert_called_once_with(entry, "2")
    assert broker.sent == []


def test_a_message_that_leaves_the_index_loses_its_lease_too(
    qos: TransportQoS, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock = Mock()
    monkeypatch.setattr(restoring.StockQoS, "_remove_from_indices", stock)
    pipe = object()
    forgotten = qos._remove_from_indices("1", pipe)
    assert stock.mock_calls == [call("1", pipe), call().zrem("unacked.leases", "1")]
    assert forgotten is stock.return_value.zrem.return_value


def test_a_worker_that_ends_has_its_channels_acknowledge(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unacked, "of_process", Unacked())
    qos = unstarted(broker)
    deliver(qos, "1")
    qos.ack("1")
    unacked.of_process.flush_acks()
    assert broker.sent == [forget("1")]
