"""When a channel sends requests to the server, and their content."""

from collections.abc import Callable
from queue import Empty
from typing import Any
from unittest.mock import Mock, call

import pytest
from kombu.transport.redis import Channel as StockChannel

from tests.unit.unstarted_taking import KEYS, LISTS, STEPS, TakingBench, answering


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> TakingBench:
    return answering(monkeypatch)


def read_at_once(bench: TakingBench, **more: Any) -> list[Any]:
    """The channel's actions after it has read all replies."""
    bench.hints.all_empty = False
    bench.channel._in_poll = bench.wire
    for name, value in more.items():
        setattr(bench.channel, name, value)
    calls = Mock()
    bench.channel.__dict__.update(ask=calls.ask, _read_arrived=calls.read)
    calls.read.return_value = True
    assert bench.channel._request_early(bench.wire) is bool(calls.read.called)
    return list(calls.mock_calls)


def test_after_a_queue_changed_the_reply_is_read_if_it_comes_at_once(bench: TakingBench) -> None:
    bench.replies.append(7)
    assert read_at_once(bench) == [call.ask(), call.read(bench.wire)]


@pytest.mark.parametrize("why", ["far", "not asked", "no hub"])
def test_the_reply_is_left_to_the_hub_if_it_does_not_come_at_once(
    bench: TakingBench, why: str
) -> None:
    if why != "far":
        bench.replies.append(7)
    if why == "no hub":
        bench.channel.connection.cycle.hub = None
    more = {"_in_poll": None} if why == "not asked" else {}
    assert read_at_once(bench, **more) == [call.ask()]


@pytest.mark.parametrize(("sweep_s", "nudged"), [(0.1, [call(0.1)]), (1.0, []), (10.0, [])])
def test_if_no_change_is_reported_the_hub_wakes_up_for_the_next_look(
    bench: TakingBench, sweep_s: float, nudged: list[Any]
) -> None:
    bench.hints.all_empty, bench.channel.sweep_s = True, sweep_s
    assert bench.channel._request_early(bench.wire) is False
    assert bench.channel.connection.cycle.nudge.call_args_list == nudged
    bench.channel.connection = None
    assert bench.channel._request_early(bench.wire) is False


# The lists that were asked for (None: all), how many messages came, how many of them are counted as
# found, and until when this channel polls before it takes.
@pytest.mark.parametrize(
    ("asked_lists", "count", "noted", "looks_until_s"),
    [
        (None, 0, [], 5.0),
        (None, 3, [call(3)], 5.0),
        ({"a"}, 0, [call(0)], 1001.0),
        ({"a"}, 3, [call(3)], 0.0),
    ],
)
def test_a_channel_that_found_nothing_although_a_message_was_reported_polls_first(
    bench: TakingBench, asked_lists: Any, count: int, noted: list[Any], looks_until_s: float
) -> None:
    bench.hints.requested, bench.channel._looks_until_s = asked_lists, 5.0
    bench.channel._note_found(count, 1000.0)
    assert bench.channel.backoff.note_look.call_args_list == noted
    assert bench.channel._looks_until_s == looks_until_s


def test_the_hub_wakes_up_when_a_delayed_message_is_due(bench: TakingBench) -> None:
    hub = bench.channel.connection.cycle.hub
    bench.hints.look_at_s = 1002.0
    bench.channel._wake_up_in(2.0)
    hub.call_later.assert_not_called()
    bench.channel._wake_up_in(1.5)
    assert (bench.hints.look_at_s, bench.channel._due_at_s) == (1001.5, 1001.5)
    [(pause_s, wake)] = [each.args for each in hub.call_later.call_args_list]
    assert (pause_s, wake()) == (1.5, None)
    bench.channel.connection.cycle.hub = None
    bench.channel._wake_up_in(1.0)
    bench.channel.connection = None
    bench.channel._wake_up_in(0.5)
    assert bench.hints.look_at_s == 1000.5
    assert hub.call_later.call_count == 1


@pytest.mark.parametrize("pause_s", [0.0, 0.3])
def test_how_many_workers_there_are_decides_for_how_long_a_message_is_left_to_them(
    bench: TakingBench, pause_s: float
) -> None:
    bench.channel._qos.keeper = Mock(workers=30)
    bench.channel.backoff.begin.return_value = pause_s
    bench.channel._back_off()
    bench.channel.backoff.begin.assert_called_once_with(workers=30, now_s=1000.0)
    assert bench.channel.connection.cycle.hub.call_later.call_count == bool(pause_s)
    bench.channel.connection.cycle.hub = None
    bench.channel._back_off()
    assert bench.channel.backoff.begin.call_count == 1, (
        "without a hub nothing would wake the channel"
    )


# The names in a mapping of delayed queues, and the numbers that the script gets.
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
    bench: TakingBench, delayed: Any, numbers: tuple[int, ...], sweep_s: float, silence_ms: int
) -> None:
    bench.channel.delayed_queues, bench.channel.sweep_s = delayed, sweep_s
    bench.channel.ask()
    [(_, _, count, *rest)] = bench.sent
    keys, arguments = rest[:count], rest[count:]
    own = [
        f"p.{name}"
        for queue in ("a", "b") if queue in delayed
        for name in bench.channel.delayed_keys(queue)
    ]  # fmt: skip
    assert keys == [*KEYS, *LISTS, "p.unacked.clock", *own]
    assert arguments[7:] == [silence_ms, *numbers]
    bench.channel._in_poll, bench.hints.requested = None, {"a"}
    bench.channel.ask()
    [command] = bench.sent
    assert command[2:11] == (8, *KEYS, *LISTS), "hints do not cover delayed messages"
    assert bench.channel._number_behind(["a", "b"], "x") == 0


def test_a_list_of_less_urgent_messages_is_left_alone(bench: TakingBench) -> None:
    bench.channel.take_urgent_only("a", 3)
    bench.channel.ask()
    assert bench.sent[0][7:11] == ("p.a", "p.b", "p.unacked.left", "p.b|3")


def test_all_lists_of_the_queues_are_watched_by_their_keys(
    bench: TakingBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StockChannel, "_update_queue_cycle", stock := Mock())
    bench.channel._active_queues = ["a", "b", "a", "fanout"]
    bench.channel.active_fanout_queues = {"fanout"}
    bench.channel._update_queue_cycle()
    stock.assert_called_once_with()
    places = [(queue, step) for queue in ("a", "b") for step in STEPS]
    [(watched,)] = [each.args for each in bench.hints.watch.call_args_list]
    assert sorted(watched.values()) == places
    assert watched[b"p.b|3"] == ("b", 3)
    assert watched[b"p.a"] == ("a", 0)


# What changed while a reply was read, whether the awaited reply is given up, and whether the
# channel asks for the order of the messages.
@pytest.mark.parametrize(
    ("change", "lets_go", "shares"),
    [
        (lambda _: None, 0, 1),
        (lambda channel_read: channel_read._active_queues.clear(), 1, 0),
        (lambda channel_read: setattr(channel_read.hints, "all_empty", True), 0, 0),
        (lambda channel_read: setattr(channel_read, "connection", None), 0, 0),
    ],
)
def test_after_the_last_cancel_the_awaited_reply_is_given_up(
    bench: TakingBench,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Any], None],
    *,
    lets_go: int,
    shares: int,
) -> None:
    share_by = bench.channel.connection.cycle.share_by
    monkeypatch.setattr(bench.channel, "_drain_reply", drain_reply := Mock(), raising=False)

    def read(_: Any) -> bool:
        assert bench.channel._reading
        change(bench.channel)
        return False

    monkeypatch.setattr(bench.channel, "_read_arrived", read, raising=False)
    monkeypatch.setattr(bench.channel, "_request_early", lambda _: False, raising=False)
    with pytest.raises(Empty):
        bench.channel._read_taken()
    assert (drain_reply.call_count, share_by.call_count) == (lets_go, shares)
    assert bench.channel._reading is False
