"""The replies and hints that a channel reads, and the commands that it sends beside requests."""

from typing import Any
from unittest.mock import Mock, call

import pytest
import redis

from tests.unit.unstarted_taking import Taking, answering
from worker.aio.transport import taking
from worker.aio.transport.replies import Replies


@pytest.fixture
def channel(monkeypatch: pytest.MonkeyPatch) -> Taking:
    return answering(monkeypatch)


@pytest.mark.parametrize("open_", ["none", "no socket"])
def test_a_connection_that_is_not_open_sends_nothing_beside_requests(
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


def test_a_connection_that_is_lost_while_it_is_read_counts_as_no_longer_being_read(
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


def test_a_reply_beside_goes_to_the_function_that_waits_for_it_and_messages_to_the_consumers(
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
def test_the_queues_of_a_server_that_reports_changes_are_read_seldom(
    channel: Taking, caplog: pytest.LogCaptureFixture, protocol: Any, answer: Any, sweep_s: float
) -> None:
    channel.wire.get_protocol.return_value = protocol
    channel.wire.read_response.side_effect = [answer]
    channel.made.sweep_s, channel.made._is_tracking = 5.0, True
    with caplog.at_level("INFO"):
        channel.made._listen_for_changes(channel.wire)
    channel.hints.look_everywhere.assert_called_once_with()
    assert channel.made.sweep_s == sweep_s
    assert channel.made._is_tracking is (sweep_s == 10)
    commands = [] if protocol == 2 else [("CLIENT", "TRACKING", "ON", "NOLOOP")]
    assert channel.sent == commands
    words = "the broker does not report changes (no); reading the queues every 100 ms"
    assert caplog.messages == [words] * (answer != b"OK")
    if commands:
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
    steps = [call.cycle.connect(channel.made)] * 2 + [call.listen(channel.wire)]
    steps += [call.keeper.catch_up(), call.cycle.recover()] if leases else []
    assert order.mock_calls == steps
    assert channel.made._qos.recover_at_s == (0.0 if leases else 5.0)


# Which of the replies delivered messages, and whether any did.
@pytest.mark.parametrize(
    ("delivered", "any_delivered"),
    [([True, False], True), ([False, True], True), ([False, False], False)],
)
def test_all_replies_that_came_are_read_though_some_had_no_message(
    channel: Taking, monkeypatch: pytest.MonkeyPatch, delivered: list[bool], *, any_delivered: bool
) -> None:
    left = list(delivered)
    monkeypatch.setattr(taking, "has_buffered", lambda _: bool(left))
    monkeypatch.setattr(channel.made, "_read_one", lambda _: left.pop(0), raising=False)
    assert channel.made._read_what_came(channel.wire) is any_delivered
    assert left == []
