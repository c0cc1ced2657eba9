"""What a channel asks the server for, and what it makes of its replies; without a server."""

from math import inf
from queue import Empty
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
import redis

from tests.unit.unstarted_taking import KEYS, LISTS, Taking
from worker.aio.transport import requesting
from worker.aio.transport.scripts import TAKE
from worker.aio.transport.take_limits import RECENT_S


@pytest.fixture
def channel(monkeypatch: pytest.MonkeyPatch) -> Taking:
    return Taking(monkeypatch)


def request(script: tuple[str, str], number: str, *, limit: int = 20, lease_s: float = 0) -> Any:
    return (*script, 8, *KEYS, *LISTS, limit, "1.5", 2, 1, f"@x.{number}", lease_s, 2, 25_000)


SHA = ("EVALSHA", requesting._SHA)


def test_a_request_names_the_lists_and_how_many_messages_there_is_room_for(
    channel: Taking,
) -> None:
    channel.made.ask()
    assert channel.sent == [request(SHA, "a")]
    assert channel.made._in_poll is channel.wire
    channel.made._qos.flush_acks.assert_called_once_with(beside=True)
    channel.made.replies.expect.assert_called_once_with(channel.wire, None)
    channel.made._connect.assert_called_once_with(None)
    channel.made.ask()
    assert channel.sent == [], "its reply is on its way"
    channel.made._in_poll = None
    channel.made._is_script_lost = True
    keeper = channel.made.keep_leases.return_value = SimpleNamespace(lease_s=60.0)
    channel.made.ask(coming=3)
    channel.made._qos.room.assert_called_with(most=200, coming=3)
    channel.made._connect.assert_called_with(keeper)
    assert channel.sent == [request(("EVAL", TAKE), "b", lease_s=60.0)]
    channel.made._in_poll = None
    channel.made.ask()
    assert channel.sent == [request(SHA, "c", lease_s=60.0)], "the server knows it again"


# Why nothing is asked for.
@pytest.mark.parametrize(
    "why", ["empty", "left to others", "no room", "refused", "too little", "limits"]
)
def test_nothing_is_asked_for_in_vain(channel: Taking, why: str) -> None:
    if why == "empty":
        channel.hints.look_at_s, channel.hints.all_empty = 1000.5, True
    if why == "left to others":
        channel.hints.look_at_s, channel.made.backoff.until_s = 1000.5, 1000.5
    if why == "no room":
        channel.made._qos.room.return_value = 0
    channel.made._qos.are_acks_refused = why == "refused"
    if why == "too little":
        channel.made._qos.prefetch_count, channel.made.connection.cycle.is_nudged = 84, True
    if why == "limits":
        for queue in "ab":
            channel.made.take_at_most(queue, lambda: 0)
    channel.made.ask()
    assert channel.sent == []
    assert channel.made._in_poll is None
    if why == "limits":
        channel.made.connection.cycle.nudge.assert_called_once_with(RECENT_S)
        channel.hints.choose.assert_not_called()
        return
    channel.made._connect.assert_not_called()
    channel.now_s += 1  # a look is due
    channel.made._qos.room.return_value, channel.made._qos.prefetch_count = 20, 80
    channel.made._qos.are_acks_refused = False
    channel.made.ask()
    assert len(channel.sent) == 1


def test_only_the_queues_that_have_room_are_asked(channel: Taking) -> None:
    channel.made.take_at_most("a", lambda: 0)
    channel.made.take_at_most("b", lambda: 5)
    channel.made.ask()
    [command] = channel.sent
    assert command[3:9] == (*KEYS, "p.b", "p.b|3")
    assert command[9] == 5
    channel.made.connection.cycle.nudge.assert_called_once_with(RECENT_S)
    channel.made._in_poll = None
    channel.made.connection.cycle.nudge.reset_mock()
    channel.made.take_at_most("a", lambda: 9)
    channel.hints.left_out = {"a"}
    channel.hints.worth_asking.side_effect = lambda *_: ["a"]
    channel.made.ask()
    assert channel.sent[0][3:11] == (*KEYS, *LISTS), "messages may be taken of it again"
    channel.made.connection.cycle.nudge.assert_not_called()


def test_where_others_took_all_a_channel_looks_first(channel: Taking) -> None:
    channel.hints.requested, channel.made._looks_until_s = {"a"}, 1000.1
    channel.made.ask()
    assert channel.sent == [("EXISTS", *LISTS)]
    channel.replies.append(0)
    assert channel.made._read_reply(channel.wire) == []
    assert channel.made._in_poll is None
    channel.hints.note_answer.assert_called_once_with(all_taken=True)
    channel.made.backoff.note_look.assert_called_once_with(0)
    channel.made.ask()
    assert channel.sent[0][0] == "EXISTS"
    channel.replies.append(2)
    assert channel.made._read_reply(channel.wire) is None
    channel.hints.note_answer.assert_called_with(all_taken=False)
    channel.made.ask()
    assert channel.sent[0][0] == "EVALSHA"
    channel.made._in_poll, channel.made._looks_until_s = None, 1000.0
    channel.made.ask()
    assert channel.sent[0][0] == "EVALSHA", "that it looks first is over"


def test_a_reply_tells_of_messages_and_of_the_next_one_that_is_due(
    channel: Taking, caplog: pytest.LogCaptureFixture
) -> None:
    channel.made._asked_lists, channel.made._asked_for = ["a", "b"], 20
    channel.made._in_poll, channel.made._is_tracking = channel.wire, True
    channel.replies.append([1, b"1 2", b"t1", [b"text"], 500_000])
    assert channel.made._read_reply(channel.wire) == [("b", "t1", b"text")]
    assert channel.made._in_poll is None
    channel.hints.note_answer.assert_called_once_with(all_taken=True)
    channel.made.backoff.note_look.assert_called_once_with(2)
    assert caplog.messages == ["moved 1 entries of a queue that are not messages to bad"]
    assert channel.hints.look_at_s == channel.made._due_at_s == 1000.5
    assert channel.made.sweep_s == 1.0
    channel.made._asked_for = 1
    channel.replies.append([0, b"0 2", b"t2", [b"text"], -1])
    assert channel.made._read_reply(channel.wire) == [("a", "t2", b"text")]
    channel.hints.note_answer.assert_called_with(all_taken=False)
    assert channel.made.sweep_s == 10.0
    assert len(caplog.messages) == 1


# What the server answers, whether it lost the script, and for how long it is left alone.
@pytest.mark.parametrize(
    ("reply", "script_lost", "pause_s"),
    [
        (redis.exceptions.NoScriptError("NOSCRIPT"), True, None),
        (redis.ResponseError("OOM"), False, 1),
    ],
)
def test_a_refused_request_is_made_again(
    channel: Taking,
    caplog: pytest.LogCaptureFixture,
    reply: Exception,
    pause_s: float | None,
    *,
    script_lost: bool,
) -> None:
    channel.made._in_poll = channel.wire
    channel.replies.append(reply)
    assert channel.made._read_reply(channel.wire) is None
    assert channel.made._in_poll is None
    assert channel.made._is_script_lost is script_lost
    assert channel.hints.look_everywhere.called is script_lost
    paused = [] if pause_s is None else [call(1000 + pause_s)]
    assert channel.hints.pause.call_args_list == paused
    words = f"the broker gives out no messages ({reply}); asking again in 1 s"
    assert caplog.messages == [words] * (pause_s is not None)


@pytest.mark.parametrize("was_empty", [True, False])
def test_a_new_message_is_left_to_others_for_a_moment(channel: Taking, *, was_empty: bool) -> None:
    channel.hints.all_empty = was_empty
    channel.made.backoff.begin.return_value = 0.02
    channel.replies.append(["invalidate", ["p.a"]])
    assert channel.made._read_reply(channel.wire) is None
    channel.hints.note_change.assert_called_once_with(["invalidate", ["p.a"]])
    hub = channel.made.connection.cycle.hub
    begun = [call(workers=1, now_s=1000.0)] * was_empty
    assert channel.made.backoff.begin.call_args_list == begun
    assert [each.args[0] for each in hub.call_later.call_args_list] == [0.02] * was_empty


@pytest.mark.parametrize("delivers", [True, False])
def test_what_came_is_delivered_while_the_server_works_on_the_next_request(
    channel: Taking, monkeypatch: pytest.MonkeyPatch, *, delivers: bool
) -> None:
    order = Mock()
    order._deliver.return_value = delivers
    taken = [("a", "t1", b"x"), ("a", "t2", b"y")]
    monkeypatch.setattr(channel.made, "_read_reply", lambda _: taken, raising=False)
    monkeypatch.setattr(channel.made, "ask", order.ask, raising=False)
    monkeypatch.setattr(channel.made, "_deliver", order._deliver)
    if delivers:
        assert channel.made._read_taken() is True
    else:
        with pytest.raises(Empty):
            channel.made._read_taken()
    assert order.mock_calls[:2] == [call.ask(coming=2), call._deliver(taken)]
    assert channel.made._reading is False
    channel.made.connection.cycle.share_by.assert_called_once_with(7.0)


def test_the_queues_are_read_when_a_look_or_a_message_is_due(channel: Taking) -> None:
    assert channel.made.look_in_s == 10
    channel.made._due_at_s = 1003.0
    assert channel.made.look_in_s == 3
    channel.now_s = 1004.0
    assert channel.made.look_in_s == 10
    assert channel.made.share_at_s == 7
    channel.made.takes = False
    assert channel.made.share_at_s == inf
