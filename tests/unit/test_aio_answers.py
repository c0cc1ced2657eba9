"""The replies and hints that a channel reads, and the commands sent beside its requests."""

from typing import Any
from unittest.mock import Mock, call

import pytest
import redis

from tests.unit.unstarted_taking import TakingBench, answering
from worker.aio.transport import taking
from worker.aio.transport.replies import Replies


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> TakingBench:
    return answering(monkeypatch)


@pytest.mark.parametrize("open_", ["none", "no socket"])
def test_a_connection_that_is_not_open_sends_nothing_beside_requests(
    bench: TakingBench, open_: str
) -> None:
    if open_ == "none":
        bench.channel.client.connection = None
    bench.wire._sock = None
    assert bench.channel.send_beside(print, "DEL", "a") is False
    assert (bench.sent, len(bench.channel.replies)) == ([], 0)


def test_a_reply_that_comes_at_once_is_read_with_all_that_came_with_it(bench: TakingBench) -> None:
    noted: list[Any] = []

    def note(reply: Any) -> None:
        assert bench.channel._reading, "a signal may come at this time"
        noted.append(reply)

    bench.hints.all_empty = False
    bench.replies += [["invalidate", [b"p.a"]], 7, ["invalidate", [b"p.b"]]]
    assert bench.channel.send_beside(note, "DEL", "a") is True
    assert bench.wire.send_command.call_args == call("DEL", "a", check_health=False)
    assert noted == [7]
    hints = [each.args for each in bench.hints.note_change.call_args_list]
    assert hints == [(["invalidate", [b"p.a"]],), (["invalidate", [b"p.b"]],)]
    assert (bench.channel._reading, len(bench.channel.replies)) == (False, 0)
    bench.replies.append(redis.ResponseError("OOM"))
    assert bench.channel.send_beside(note, "DEL", "b") is True
    assert isinstance(noted[1], redis.ResponseError)


@pytest.mark.parametrize("why", ["reading", "asked", "owed", "far", "late"])
def test_a_reply_that_is_not_the_next_one_or_not_near_is_left_to_the_hub(
    bench: TakingBench, why: str
) -> None:
    bench.channel._reading = why == "reading"
    bench.channel._in_poll = bench.wire if why == "asked" else None
    bench.channel.replies.is_near = why != "far"
    if why == "owed":
        bench.channel.replies.expect(bench.wire, print)
    if why != "late":
        bench.replies.append(7)
    assert bench.channel.send_beside(print, "DEL", "a") is True
    assert len(bench.channel.replies) == 1 + (why == "owed")
    assert bench.channel._reading is (why == "reading")


def test_a_connection_that_is_lost_while_it_is_read_counts_as_no_longer_being_read(
    bench: TakingBench,
) -> None:
    bench.replies.append(redis.ConnectionError("gone"))
    with pytest.raises(redis.ConnectionError):
        bench.channel.send_beside(print, "DEL", "a")
    assert bench.channel._reading is False

    def lose(_: Any) -> None:
        bench.wire._sock = None

    bench.channel.replies, bench.replies = Replies(), bench.replies
    bench.replies += [7, 8]
    assert bench.channel.send_beside(lose, "DEL", "a") is True
    assert [*bench.replies] == [8]


def test_a_reply_beside_goes_to_the_function_that_waits_for_it_and_messages_to_the_consumers(
    bench: TakingBench,
) -> None:
    noted: list[Any] = []
    bench.channel.replies.expect(bench.wire, noted.append)
    bench.channel.replies.expect(bench.wire, None)
    bench.channel.replies.expect(bench.wire, noted.append)
    bench.channel._in_poll, bench.channel._asked_lists = bench.wire, ["a"]
    bench.channel._asked_for = 5
    error = redis.ResponseError("OOM")
    bench.replies += [3, [0, b"0 2", b"t1", [b"text"], -1], error]
    assert bench.channel._read_reply(bench.wire) is None
    assert bench.channel._in_poll is bench.wire
    assert bench.channel._read_reply(bench.wire) == [("a", "t1", b"text")]
    bench.channel._in_poll = bench.wire
    assert bench.channel._read_reply(bench.wire) is None
    assert bench.channel._in_poll is bench.wire
    assert noted == [3, error]
    bench.hints.pause.assert_not_called()


# The protocol of the connection, the server's reply, and how often the queues are then read.
@pytest.mark.parametrize(
    ("protocol", "answer", "sweep_s"),
    [(3, b"OK", 10.0), ("3", b"OK", 10.0), (2, b"OK", 0.1), (3, redis.ResponseError("no"), 0.1)],
)
def test_the_queues_of_a_server_that_reports_changes_are_read_rarely(
    bench: TakingBench, caplog: pytest.LogCaptureFixture, protocol: Any, answer: Any, sweep_s: float
) -> None:
    bench.wire.get_protocol.return_value = protocol
    bench.wire.read_response.side_effect = [answer]
    bench.channel.sweep_s, bench.channel._is_tracking = 5.0, True
    with caplog.at_level("INFO"):
        bench.channel._listen_for_changes(bench.wire)
    bench.hints.look_everywhere.assert_called_once_with()
    assert bench.channel.sweep_s == sweep_s
    assert bench.channel._is_tracking is (sweep_s == 10)
    commands = [] if protocol == 2 else [("CLIENT", "TRACKING", "ON", "NOLOOP")]
    assert bench.sent == commands
    words = "the broker does not report changes (no); reading the queues every 100 ms"
    assert caplog.messages == [words] * (answer != b"OK")
    if commands:
        [handler] = bench.wire._parser.set_invalidation_push_handler.call_args.args
        assert handler(["invalidate"]) == ["invalidate"]


@pytest.mark.parametrize(("polling_s", "swept_s"), [(None, 10), (1, 10), (60, 60)])
def test_kombus_polling_interval_counts_if_it_is_longer(
    bench: TakingBench, polling_s: float | None, swept_s: float
) -> None:
    bench.channel.brpop_timeout = polling_s
    assert bench.channel._reported_sweep_s(delayed_here=False) == swept_s
    assert bench.channel._reported_sweep_s(delayed_here=True) == (polling_s or 1)


@pytest.mark.parametrize("leases", [True, False])
def test_a_new_connection_listens_and_catches_up_with_what_failed_meanwhile(
    bench: TakingBench, monkeypatch: pytest.MonkeyPatch, *, leases: bool
) -> None:
    order = Mock()
    monkeypatch.setattr(bench.channel, "_listen_for_changes", order.listen, raising=False)
    cycle = bench.channel.connection.cycle = order.cycle
    keeper = order.keeper if leases else None
    bench.channel._qos.recover_at_s = 5.0
    cycle.connect.return_value = False
    bench.channel.__class__._connect(bench.channel, keeper)
    cycle.connect.return_value = True
    bench.channel.__class__._connect(bench.channel, keeper)
    steps = [call.cycle.connect(bench.channel)] * 2 + [call.listen(bench.wire)]
    steps += [call.keeper.catch_up(), call.cycle.recover()] if leases else []
    assert order.mock_calls == steps
    assert bench.channel._qos.recover_at_s == (0.0 if leases else 5.0)


# The replies that delivered messages, and whether any did.
@pytest.mark.parametrize(
    ("delivered", "any_delivered"),
    [([True, False], True), ([False, True], True), ([False, False], False)],
)
def test_all_replies_that_came_are_read_though_some_had_no_message(
    bench: TakingBench,
    monkeypatch: pytest.MonkeyPatch,
    delivered: list[bool],
    *,
    any_delivered: bool,
) -> None:
    left = list(delivered)
    monkeypatch.setattr(taking, "has_buffered", lambda _: bool(left))
    monkeypatch.setattr(bench.channel, "_read_one", lambda _: left.pop(0), raising=False)
    assert bench.channel._read_arrived(bench.wire) is any_delivered
    assert left == []
