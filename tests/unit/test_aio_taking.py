"""A channel's taking requests, and its handling of the replies; without a server."""

from math import inf
from queue import Empty
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
import redis

from tests.unit.unstarted_taking import KEYS, LISTS, TakingBench
from worker.aio.transport import requesting
from worker.aio.transport.scripts import TAKE
from worker.aio.transport.take_limits import RECENT_S


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> TakingBench:
    return TakingBench(monkeypatch)


def request(script: tuple[str, str], number: str, *, limit: int = 20, lease_s: float = 0) -> Any:
    return (*script, 8, *KEYS, *LISTS, limit, "1.5", 2, 1, f"@x.{number}", lease_s, 2, 25_000)


SHA = ("EVALSHA", requesting._SHA)


def test_a_request_names_the_lists_and_how_many_messages_there_is_room_for(
    bench: TakingBench,
) -> None:
    bench.channel.ask()
    assert bench.sent == [request(SHA, "a")]
    assert bench.channel._in_poll is bench.wire
    bench.channel._qos.flush_acks.assert_called_once_with(beside=True)
    bench.channel.replies.expect.assert_called_once_with(bench.wire, None)
    bench.channel._connect.assert_called_once_with(None)
    bench.channel.ask()
    assert bench.sent == [], "the reply to the request has not come yet"
    bench.channel._in_poll = None
    bench.channel._is_script_lost = True
    keeper = bench.channel.keep_leases.return_value = SimpleNamespace(lease_s=60.0)
    bench.channel.ask(coming=3)
    bench.channel._qos.room.assert_called_with(most=200, coming=3)
    bench.channel._connect.assert_called_with(keeper)
    assert bench.sent == [request(("EVAL", TAKE), "b", lease_s=60.0)]
    bench.channel._in_poll = None
    bench.channel.ask()
    assert bench.sent == [request(SHA, "c", lease_s=60.0)], "the server has the script again"


# The reason why nothing is asked for.
@pytest.mark.parametrize(
    "why", ["empty", "left to others", "no room", "refused", "too little", "limits"]
)
def test_no_request_is_sent_without_need(bench: TakingBench, why: str) -> None:
    if why == "empty":
        bench.hints.look_at_s, bench.hints.all_empty = 1000.5, True
    if why == "left to others":
        bench.hints.look_at_s, bench.channel.backoff.until_s = 1000.5, 1000.5
    if why == "no room":
        bench.channel._qos.room.return_value = 0
    bench.channel._qos.are_acks_refused = why == "refused"
    if why == "too little":
        bench.channel._qos.prefetch_count, bench.channel.connection.cycle.is_nudged = 84, True
    if why == "limits":
        for queue in "ab":
            bench.channel.take_at_most(queue, lambda: 0)
    bench.channel.ask()
    assert bench.sent == []
    assert bench.channel._in_poll is None
    if why == "limits":
        bench.channel.connection.cycle.nudge.assert_called_once_with(RECENT_S)
        bench.hints.choose.assert_not_called()
        return
    bench.channel._connect.assert_not_called()
    bench.now_s += 1  # a poll is due
    bench.channel._qos.room.return_value, bench.channel._qos.prefetch_count = 20, 80
    bench.channel._qos.are_acks_refused = False
    bench.channel.ask()
    assert len(bench.sent) == 1


def test_only_the_queues_that_have_room_are_asked(bench: TakingBench) -> None:
    bench.channel.take_at_most("a", lambda: 0)
    bench.channel.take_at_most("b", lambda: 5)
    bench.channel.ask()
    [command] = bench.sent
    assert command[3:9] == (*KEYS, "p.b", "p.b|3")
    assert command[9] == 5
    bench.channel.connection.cycle.nudge.assert_called_once_with(RECENT_S)
    bench.channel._in_poll = None
    bench.channel.connection.cycle.nudge.reset_mock()
    bench.channel.take_at_most("a", lambda: 9)
    bench.hints.left_out = {"a"}
    bench.hints.worth_asking.side_effect = lambda *_: ["a"]
    bench.channel.ask()
    assert bench.sent[0][3:11] == (*KEYS, *LISTS), "messages may be taken from the queue again"
    bench.channel.connection.cycle.nudge.assert_not_called()


def test_if_others_took_all_a_channel_looks_first(bench: TakingBench) -> None:
    bench.hints.requested, bench.channel._looks_until_s = {"a"}, 1000.1
    bench.channel.ask()
    assert bench.sent == [("EXISTS", *LISTS)]
    bench.replies.append(0)
    assert bench.channel._read_reply(bench.wire) == []
    assert bench.channel._in_poll is None
    bench.hints.note_answer.assert_called_once_with(all_taken=True)
    bench.channel.backoff.note_look.assert_called_once_with(0)
    bench.channel.ask()
    assert bench.sent[0][0] == "EXISTS"
    bench.replies.append(2)
    assert bench.channel._read_reply(bench.wire) is None
    bench.hints.note_answer.assert_called_with(all_taken=False)
    bench.channel.ask()
    assert bench.sent[0][0] == "EVALSHA"
    bench.channel._in_poll, bench.channel._looks_until_s = None, 1000.0
    bench.channel.ask()
    assert bench.sent[0][0] == "EVALSHA", "the channel no longer polls before it takes"


def test_a_reply_has_messages_and_the_time_until_the_next_one_is_due(
    bench: TakingBench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.channel._asked_lists, bench.channel._asked_for = ["a", "b"], 20
    bench.channel._in_poll, bench.channel._is_tracking = bench.wire, True
    bench.replies.append([1, b"1 2", b"t1", [b"text"], 500_000])
    assert bench.channel._read_reply(bench.wire) == [("b", "t1", b"text")]
    assert bench.channel._in_poll is None
    bench.hints.note_answer.assert_called_once_with(all_taken=True)
    bench.channel.backoff.note_look.assert_called_once_with(2)
    assert caplog.messages == ["moved 1 entries of a queue that are not messages to bad"]
    assert bench.hints.look_at_s == bench.channel._due_at_s == 1000.5
    assert bench.channel.sweep_s == 1.0
    bench.channel._asked_for = 1
    bench.replies.append([0, b"0 2", b"t2", [b"text"], -1])
    assert bench.channel._read_reply(bench.wire) == [("a", "t2", b"text")]
    bench.hints.note_answer.assert_called_with(all_taken=False)
    assert bench.channel.sweep_s == 10.0
    assert len(caplog.messages) == 1


# The server's reply, whether the server lost the script, and how long it is then left alone.
@pytest.mark.parametrize(
    ("reply", "script_lost", "pause_s"),
    [
        (redis.exceptions.NoScriptError("NOSCRIPT"), True, None),
        (redis.ResponseError("OOM"), False, 1),
    ],
)
def test_a_refused_request_is_made_again(
    bench: TakingBench,
    caplog: pytest.LogCaptureFixture,
    reply: Exception,
    pause_s: float | None,
    *,
    script_lost: bool,
) -> None:
    bench.channel._in_poll = bench.wire
    bench.replies.append(reply)
    assert bench.channel._read_reply(bench.wire) is None
    assert bench.channel._in_poll is None
    assert bench.channel._is_script_lost is script_lost
    assert bench.hints.look_everywhere.called is script_lost
    paused = [] if pause_s is None else [call(1000 + pause_s)]
    assert bench.hints.pause.call_args_list == paused
    words = f"the broker delivers no messages ({reply}); asking again in 1 s"
    assert caplog.messages == [words] * (pause_s is not None)


@pytest.mark.parametrize("was_empty", [True, False])
def test_a_new_message_is_left_to_others_for_a_moment(
    bench: TakingBench, *, was_empty: bool
) -> None:
    bench.hints.all_empty = was_empty
    bench.channel.backoff.begin.return_value = 0.02
    bench.replies.append(["invalidate", ["p.a"]])
    assert bench.channel._read_reply(bench.wire) is None
    bench.hints.note_change.assert_called_once_with(["invalidate", ["p.a"]])
    hub = bench.channel.connection.cycle.hub
    begun = [call(workers=1, now_s=1000.0)] * was_empty
    assert bench.channel.backoff.begin.call_args_list == begun
    assert [each.args[0] for each in hub.call_later.call_args_list] == [0.02] * was_empty


@pytest.mark.parametrize("delivers", [True, False])
def test_messages_that_came_are_delivered_while_the_server_works_on_the_next_request(
    bench: TakingBench, monkeypatch: pytest.MonkeyPatch, *, delivers: bool
) -> None:
    order = Mock()
    order._deliver.return_value = delivers
    taken = [("a", "t1", b"x"), ("a", "t2", b"y")]
    monkeypatch.setattr(bench.channel, "_read_reply", lambda _: taken, raising=False)
    monkeypatch.setattr(bench.channel, "ask", order.ask, raising=False)
    monkeypatch.setattr(bench.channel, "_deliver", order._deliver)
    if delivers:
        assert bench.channel._read_taken() is True
    else:
        with pytest.raises(Empty):
            bench.channel._read_taken()
    assert order.mock_calls[:2] == [call.ask(coming=2), call._deliver(taken)]
    assert bench.channel._reading is False
    bench.channel.connection.cycle.share_by.assert_called_once_with(7.0)


def test_the_queues_are_read_when_a_look_or_a_message_is_due(bench: TakingBench) -> None:
    assert bench.channel.look_in_s == 10
    bench.channel._due_at_s = 1003.0
    assert bench.channel.look_in_s == 3
    bench.now_s = 1004.0
    assert bench.channel.look_in_s == 10
    assert bench.channel.share_at_s == 7
    bench.channel.takes = False
    assert bench.channel.share_at_s == inf
