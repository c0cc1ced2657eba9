"""What a channel makes of what its taking connection brings, and what it sends beside requests."""

from collections.abc import Callable
from queue import Empty
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
import redis
from kombu.transport.redis import Channel as StockChannel

from tests.unit.unstarted_taking import KEYS, LISTS, STEPS, Taking
from worker.aio.transport import replies, requesting, taking
from worker.aio.transport.replies import Replies


@pytest.fixture
def channel(monkeypatch: pytest.MonkeyPatch) -> Taking:
    made = Taking(monkeypatch)
    made.made.replies = Replies()
    clock = SimpleNamespace(monotonic=lambda: made.now_s)
    monkeypatch.setattr(replies, "time", clock)
    monkeypatch.setattr(requesting, "has_buffered", lambda _: bool(made.replies))
    for module in (requesting, taking):
        monkeypatch.setattr(module, "arrives_soon", lambda _: bool(made.replies))
    return made


@pytest.mark.parametrize("open_", ["none", "no socket"])
def test_nothing_is_sent_beside_by_a_connection_that_is_not_open(
    channel: Taking, open_: str
) -> None:
    if open_ == "none":
        channel.made.client.connection = None
    channel.wire._sock = None
    assert channel.made.send_beside(print, "DEL", "a") is False
    assert (channel.sent, len(channel.made.replies)) == ([], 0)


def test_a_reply_that_comes_at_once_is_read_with_all_that_came_with_it(channel: Taking) -> None:
    noted: list[Any] = []

    def note(reply: Any) -> None:
        assert channel.made._reading, "a signal may come meanwhile"
        noted.append(reply)

    channel.hints.all_empty = False
    channel.replies += [["invalidate", [b"p.a"]], 7, ["invalidate", [b"p.b"]]]
    assert channel.made.send_beside(note, "DEL", "a") is True
    assert channel.wire.send_command.call_args == call("DEL", "a", check_health=False)
    assert noted == [7]
    hints = [each.args for each in channel.hints.note_change.call_args_list]
    assert hints == [(["invalidate", [b"p.a"]],), (["invalidate", [b"p.b"]],)]
    assert (channel.made._reading, len(channel.made.replies)) == (False, 0)
    channel.replies.append(redis.ResponseError("OOM"))
    assert channel.made.send_beside(note, "DEL", "b") is True
    assert isinstance(noted[1], redis.ResponseError)


@pytest.mark.parametrize("why", ["reading", "asked", "owed", "far", "late"])
def test_a_reply_that_is_not_the_next_one_or_not_near_is_left_to_the_hub(
    channel: Taking, why: str
) -> None:
    channel.made._reading = why == "reading"
    channel.made._in_poll = channel.wire if why == "asked" else None
    channel.made.replies.is_near = why != "far"
    if why == "owed":
        channel.made.replies.expect(channel.wire, print)
    if why != "late":
        channel.replies.append(7)
    assert channel.made.send_beside(print, "DEL", "a") is True
    assert len(channel.made.replies) == 1 + (why == "owed")
    assert channel.made._reading is (why == "reading")


def test_a_connection_that_is_lost_while_it_is_read_is_not_being_read_any_more(
    channel: Taking,
) -> None:
    channel.replies.append(redis.ConnectionError("gone"))
    with pytest.raises(redis.ConnectionError):
        channel.made.send_beside(print, "DEL", "a")
    assert channel.made._reading is False

    def lose(_: Any) -> None:
        channel.wire._sock = None

    channel.made.replies, channel.replies = Replies(), channel.replies
    channel.replies += [7, 8]
    assert channel.made.send_beside(lose, "DEL", "a") is True
    assert [*channel.replies] == [8]


def test_a_reply_beside_goes_to_who_waits_for_it_and_messages_to_the_consumers(
    channel: Taking,
) -> None:
    noted: list[Any] = []
    channel.made.replies.expect(channel.wire, noted.append)
    channel.made.replies.expect(channel.wire, None)
    channel.made.replies.expect(channel.wire, noted.append)
    channel.made._in_poll, channel.made._asked_lists = channel.wire, ["a"]
    channel.made._asked_for = 5
    error = redis.ResponseError("OOM")
    channel.replies += [3, [0, b"0 2", b"t1", [b"text"], -1], error]
    assert channel.made._read_reply(channel.wire) is None
    assert channel.made._in_poll is channel.wire
    assert channel.made._read_reply(channel.wire) == [("a", "t1", b"text")]
    channel.made._in_poll = channel.wire
    assert channel.made._read_reply(channel.wire) is None
    assert channel.made._in_poll is channel.wire
    assert noted == [3, error]
    channel.hints.pause.assert_not_called()


# The protocol of the connection, what the server answers, and how often the queues are read then.
@pytest.mark.parametrize(
    ("protocol", "answer", "sweep_s"),
    [(3, b"OK", 10.0), ("3", b"OK", 10.0), (2, b"OK", 0.1), (3, redis.ResponseError("no"), 0.1)],
)
def test_a_server_that_reports_changes_is_asked_seldom(
    channel: Taking, caplog: pytest.LogCaptureFixture, protocol: Any, answer: Any, sweep_s: float
) -> None:
    channel.wire.get_protocol.return_value = protocol
    channel.wire.read_response.side_effect = [answer]
    channel.made.sweep_s, channel.made._is_told = 5.0, True
    with caplog.at_level("INFO"):
        channel.made._listen_for_changes(channel.wire)
    channel.hints.look_everywhere.assert_called_once_with()
    assert channel.made.sweep_s == sweep_s
    assert channel.made._is_told is (sweep_s == 10)
    asked = [] if protocol == 2 else [("CLIENT", "TRACKING", "ON", "NOLOOP")]
    assert channel.sent == asked
    words = "the broker does not report changes (no); reading the queues every 100 ms"
    assert caplog.messages == [words] * (answer != b"OK")
    if asked:
        [handler] = channel.wire._parser.set_invalidation_push_handler.call_args.args
        assert handler(["invalidate"]) == ["invalidate"]


@pytest.mark.parametrize(("polling_s", "swept_s"), [(None, 10), (1, 10), (60, 60)])
def test_kombus_polling_interval_counts_where_it_is_longer(
    channel: Taking, polling_s: float | None, swept_s: float
) -> None:
    channel.made.brpop_timeout = polling_s
    assert channel.made._reported_sweep_s(delayed_here=False) == swept_s
    assert channel.made._reported_sweep_s(delayed_here=True) == (polling_s or 1)


@pytest.mark.parametrize("leases", [True, False])
def test_a_new_connection_listens_and_catches_up_with_what_failed_meanwhile(
    channel: Taking, monkeypatch: pytest.MonkeyPatch, *, leases: bool
) -> None:
    order = Mock()
    monkeypatch.setattr(channel.made, "_listen_for_changes", order.listen, raising=False)
    cycle = channel.made.connection.cycle = order.cycle
    keeper = order.keeper if leases else None
    channel.made._qos.recover_at_s = 5.0
    cycle.connect.return_value = False
    channel.made.__class__._connect(channel.made, keeper)
    cycle.connect.return_value = True
    channel.made.__class__._connect(channel.made, keeper)
    said = [call.cycle.connect(channel.made)] * 2 + [call.listen(channel.wire)]
    said += [call.keeper.catch_up(), call.cycle.recover()] if leases else []
    assert order.mock_calls == said
    assert channel.made._qos.recover_at_s == (0.0 if leases else 5.0)


# Whether messages were delivered, and whether there was one among what came.
@pytest.mark.parametrize(
    ("delivered", "was_one"),
    [([True, False], True), ([False, True], True), ([False, False], False)],
)
def test_all_that_came_is_read_though_a_part_of_it_had_no_message(
    channel: Taking, monkeypatch: pytest.MonkeyPatch, delivered: list[bool], *, was_one: bool
) -> None:
    left = list(delivered)
    monkeypatch.setattr(taking, "has_buffered", lambda _: bool(left))
    monkeypatch.setattr(channel.made, "_read_one", lambda _: left.pop(0), raising=False)
    assert channel.made._read_what_came(channel.wire) is was_one
    assert left == []


def read_at_once(channel: Taking, **more: Any) -> list[Any]:
    """What the channel does once it has read all that came."""
    channel.hints.all_empty = False
    channel.made._in_poll = channel.wire
    for name, value in more.items():
        setattr(channel.made, name, value)
    told = Mock()
    channel.made.__dict__.update(ask=told.ask, _read_what_came=told.read)
    told.read.return_value = True
    assert channel.made._ask_for_what_changed(channel.wire) is bool(told.read.called)
    return list(told.mock_calls)


def test_where_something_changed_the_answer_is_read_if_it_comes_at_once(channel: Taking) -> None:
    channel.replies.append(7)
    assert read_at_once(channel) == [call.ask(), call.read(channel.wire)]


@pytest.mark.parametrize("why", ["far", "not asked", "no hub"])
def test_the_answer_is_left_to_the_hub_where_it_does_not_come_at_once(
    channel: Taking, why: str
) -> None:
    if why != "far":
        channel.replies.append(7)
    if why == "no hub":
        channel.made.connection.cycle.hub = None
    more = {"_in_poll": None} if why == "not asked" else {}
    assert read_at_once(channel, **more) == [call.ask()]


@pytest.mark.parametrize(("sweep_s", "nudged"), [(0.1, [call(0.1)]), (1.0, []), (10.0, [])])
def test_where_no_change_is_reported_the_hub_wakes_up_for_the_next_look(
    channel: Taking, sweep_s: float, nudged: list[Any]
) -> None:
    channel.hints.all_empty, channel.made.sweep_s = True, sweep_s
    assert channel.made._ask_for_what_changed(channel.wire) is False
    assert channel.made.connection.cycle.nudge.call_args_list == nudged
    channel.made.connection = None
    assert channel.made._ask_for_what_changed(channel.wire) is False


# Whether only some lists were asked for, how many messages came, how many the next channel is told
# of, and until when this one looks before it takes.
@pytest.mark.parametrize(
    ("asked", "count", "noted", "looks_until_s"),
    [
        (None, 0, [], 5.0),
        (None, 3, [call(3)], 5.0),
        ({"a"}, 0, [call(0)], 1001.0),
        ({"a"}, 3, [call(3)], 0.0),
    ],
)
def test_who_finds_nothing_where_a_message_was_reported_looks_first(
    channel: Taking, asked: Any, count: int, noted: list[Any], looks_until_s: float
) -> None:
    channel.hints.asked, channel.made._looks_until_s = asked, 5.0
    channel.made._note_found(count, 1000.0)
    assert channel.made.backoff.note_look.call_args_list == noted
    assert channel.made._looks_until_s == looks_until_s


def test_the_hub_wakes_up_when_a_delayed_message_is_due(channel: Taking) -> None:
    hub = channel.made.connection.cycle.hub
    channel.hints.look_at_s = 1002.0
    channel.made._wake_up_in(2.0)
    hub.call_later.assert_not_called()
    channel.made._wake_up_in(1.5)
    assert (channel.hints.look_at_s, channel.made._due_at_s) == (1001.5, 1001.5)
    [(pause_s, wake)] = [each.args for each in hub.call_later.call_args_list]
    assert (pause_s, wake()) == (1.5, None)
    channel.made.connection.cycle.hub = None
    channel.made._wake_up_in(1.0)
    channel.made.connection = None
    channel.made._wake_up_in(0.5)
    assert channel.hints.look_at_s == 1000.5
    assert hub.call_later.call_count == 1


@pytest.mark.parametrize("pause_s", [0.0, 0.3])
def test_how_many_workers_there_are_decides_for_how_long_a_message_is_left_to_them(
    channel: Taking, pause_s: float
) -> None:
    channel.made._qos.keeper = Mock(workers=30)
    channel.made.backoff.begin.return_value = pause_s
    channel.made._give_way()
    channel.made.backoff.begin.assert_called_once_with(workers=30, now_s=1000.0)
    assert channel.made.connection.cycle.hub.call_later.call_count == bool(pause_s)
    channel.made.connection.cycle.hub = None
    channel.made._give_way()
    assert channel.made.backoff.begin.call_count == 1, "without a hub nobody would wake up"


# What a mapping of delayed queues names, and the numbers that the script is told.
@pytest.mark.parametrize(
    ("delayed", "numbers"),
    [
        (["b"], (2, 0)),
        ({"b": "a"}, (2, 1)),
        ({"b": None, "a": "b"}, (1, 2, 2, 0)),
        ({"b": "x"}, (2, 0)),
    ],
)
@pytest.mark.parametrize(("sweep_s", "silence_ms"), [(0.1, 2_500), (1.0, 2_500), (60.0, 150_000)])
def test_a_request_names_the_delayed_queues_and_those_that_they_go_before(
    channel: Taking, delayed: Any, numbers: tuple[int, ...], sweep_s: float, silence_ms: int
) -> None:
    channel.made.delayed_queues, channel.made.sweep_s = delayed, sweep_s
    channel.made.ask()
    [(_, _, count, *rest)] = channel.sent
    keys, arguments = rest[:count], rest[count:]
    own = [
        f"p.{name}"
        for queue in ("a", "b") if queue in delayed
        for name in channel.made.delayed_keys(queue)
    ]  # fmt: skip
    assert keys == [*KEYS, *LISTS, "p.unacked.clock", *own]
    assert arguments[7:] == [silence_ms, *numbers]
    channel.made._in_poll, channel.hints.asked = None, {"a"}
    channel.made.ask()
    [command] = channel.sent
    assert command[2:11] == (8, *KEYS, *LISTS), "hints do not tell of delayed messages"
    assert channel.made._number_behind(["a", "b"], "x") == 0


def test_a_list_of_less_urgent_messages_is_left_alone(channel: Taking) -> None:
    channel.made.take_urgent_only("a", 3)
    channel.made.ask()
    assert channel.sent[0][7:11] == ("p.a", "p.b", "p.unacked.left", "p.b|3")


def test_all_lists_of_the_queues_are_watched_by_their_keys(
    channel: Taking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StockChannel, "_update_queue_cycle", stock := Mock())
    channel.made._active_queues = ["a", "b", "a", "told"]
    channel.made.active_fanout_queues = {"told"}
    channel.made._update_queue_cycle()
    stock.assert_called_once_with()
    places = [(queue, step) for queue in ("a", "b") for step in STEPS]
    [(watched,)] = [each.args for each in channel.hints.watch.call_args_list]
    assert sorted(watched.values()) == places
    assert watched[b"p.b|3"] == ("b", 3)
    assert watched[b"p.a"] == ("a", 0)


# What changed while a reply was read, whether the reply on its way is let go, and whether the
# order of the messages is asked for.
@pytest.mark.parametrize(
    ("change", "lets_go", "shares"),
    [
        (lambda _: None, 0, 1),
        (lambda made: made._active_queues.clear(), 1, 0),
        (lambda made: setattr(made.hints, "all_empty", True), 0, 0),
        (lambda made: setattr(made, "connection", None), 0, 0),
    ],
)
def test_after_the_last_cancel_what_is_on_its_way_is_let_go(
    channel: Taking,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Any], None],
    *,
    lets_go: int,
    shares: int,
) -> None:
    share_by = channel.made.connection.cycle.share_by
    monkeypatch.setattr(channel.made, "_let_go", let_go := Mock(), raising=False)

    def read(_: Any) -> bool:
        assert channel.made._reading
        change(channel.made)
        return False

    monkeypatch.setattr(channel.made, "_read_what_came", read, raising=False)
    monkeypatch.setattr(channel.made, "_ask_for_what_changed", lambda _: False, raising=False)
    with pytest.raises(Empty):
        channel.made._read_taken()
    assert (let_go.call_count, share_by.call_count) == (lets_go, shares)
    assert channel.made._reading is False
