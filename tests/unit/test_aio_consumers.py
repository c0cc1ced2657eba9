"""A channel without a server: how it begins and ends to consume, publishes, and counts queues."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import Mock, call

import pytest
from kombu.transport.redis import Channel as StockChannel

from worker.aio.transport import Channel, delaying
from worker.aio.transport.sentinel import SentinelChannel


class Consuming:
    """A channel that has never connected; `new_calls` has its calls since the last read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = Mock()
        for name in ("basic_consume", "_basic_cancel"):
            monkeypatch.setattr(StockChannel, name, getattr(self.calls, name))
        self.channel: Any = Channel.__new__(Channel)
        fields: dict[str, Any] = {
            "_fanout_queues": {"fanout": ()}, "_no_ack_tags": set(), "takes": True,
            "_in_poll": object(), "ack_emulation": True, "_active_queues": [],
            "active_fanout_queues": set(),
            "sharing": self.calls.sharing, "hints": self.calls.hints, "limits": self.calls.limits,
            "_reading": False, "connection": Mock(), "_qos": Mock(), "closed": False,
        }  # fmt: skip
        for name, value in fields.items():
            setattr(self.channel, name, value)
        self.channel.connection.mock_add_spec(None)
        for name in ("_drain_reply", "_forget_connection"):
            monkeypatch.setattr(self.channel, name, getattr(self.calls, name), raising=False)

    @property
    def new_calls(self) -> list[Any]:
        calls = list(self.calls.mock_calls)
        self.calls.reset_mock()
        return calls


@pytest.fixture
def consuming(monkeypatch: pytest.MonkeyPatch) -> Consuming:
    return Consuming(monkeypatch)


def test_a_queue_is_consumed_in_batches_and_its_tenants_have_turns(consuming: Consuming) -> None:
    consumed = consuming.channel.basic_consume("a", False, print, "tag", more=1)
    assert consumed is consuming.calls.basic_consume.return_value
    assert consuming.new_calls == [
        call.sharing.add("a"),
        call.basic_consume("a", False, print, "tag", more=1),
    ]
    assert consuming.channel.takes is True
    consuming.channel.basic_consume("fanout", False, print, "tag")
    consuming.channel.basic_consume("fanout", True, print, "tag")
    assert consuming.new_calls == [
        call.basic_consume("fanout", False, print, "tag"),
        call.basic_consume("fanout", True, print, "tag"),
    ]
    assert (consuming.channel.takes, consuming.channel._no_ack_tags) == (True, set())


def test_without_acknowledgements_a_channel_works_as_kombus_own_and_afterwards_in_batches(
    consuming: Consuming,
) -> None:
    for tag in ("one", "two"):
        consuming.channel.basic_consume("a", True, print, tag)
    assert consuming.new_calls == [
        call._drain_reply(),
        call._forget_connection(),
        call.basic_consume("a", True, print, "one"),
        call.basic_consume("a", True, print, "two"),
    ]
    assert consuming.channel.takes is False
    cancelled = consuming.channel._basic_cancel("one")
    assert cancelled is consuming.calls._basic_cancel.return_value
    assert (consuming.channel.takes, consuming.channel._in_poll is None) == (False, False)
    assert consuming.new_calls == [call._basic_cancel("one")]
    consuming.channel._basic_cancel("two")
    assert consuming.new_calls == [
        call._basic_cancel("two"),
        call._forget_connection(),
        call.hints.look_everywhere(),
    ]
    assert (
        consuming.channel.takes,
        consuming.channel._in_poll,
        consuming.channel._no_ack_tags,
    ) == (
        True,
        None,
        set(),
    )


@pytest.mark.parametrize("why", ["a queue is consumed", "no acknowledgements"])
def test_a_channel_stays_as_kombus_own_if_it_could_not_change(
    consuming: Consuming, why: str
) -> None:
    consuming.channel.basic_consume("a", True, print, "one")
    consuming.channel._active_queues = ["b"] if why == "a queue is consumed" else []
    consuming.channel.ack_emulation = why != "no acknowledgements"
    consuming.new_calls  # noqa: B018
    consuming.channel._basic_cancel("one")
    assert consuming.new_calls == [call._basic_cancel("one")]
    assert consuming.channel.takes is False


# Whether a queue is left, whether a reply is being read, and whether the awaited reply is given up.
@pytest.mark.parametrize(
    ("left", "reading", "lets_go"), [([], False, 1), (["a"], False, 0), ([], True, 0)]
)
def test_after_the_last_cancel_no_reply_waits_unread(
    consuming: Consuming, *, left: list[str], reading: bool, lets_go: int
) -> None:
    consuming.channel._active_queues, consuming.channel._reading = left, reading
    consuming.channel._basic_cancel("tag")
    assert consuming.new_calls == [call._basic_cancel("tag"), *[call._drain_reply()] * lets_go]


def test_the_queues_are_read_again_once_more_may_be_taken(consuming: Consuming) -> None:
    consuming.channel.take_urgent_only("a", 3)
    assert consuming.new_calls == [
        call.limits.take_urgent_only("a", 3),
        call.hints.look_everywhere(),
    ]


class Server:
    """A server that gives planned replies, and its pipeline."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.sent = answers, list[Any]()

    def execute_command(self, *command: Any) -> None:
        self.sent.append(command)

    @contextmanager
    def pipeline(self, **how: Any) -> Iterator["Server"]:
        assert how == {"transaction": False}
        yield self

    def execute(self) -> tuple[Any, ...]:
        return self.answers


@pytest.fixture
def publishing(consuming: Consuming, monkeypatch: pytest.MonkeyPatch) -> Any:
    channel = consuming.channel
    channel.delayed_queues, channel.global_keyprefix, channel.sep = ["late"], "p.", "|"
    channel.priority_steps = (0, 3)
    channel.server = Server(4, 3)

    @contextmanager
    def conn_or_acquire() -> Iterator[Server]:
        yield channel.server

    monkeypatch.setattr(channel, "conn_or_acquire", conn_or_acquire, raising=False)
    for name in ("_put", "_size", "_has_queue", "_purge", "_delete"):
        monkeypatch.setattr(StockChannel, name, getattr(consuming.calls, name))
    for name in ("count_parked", "drop_parked"):
        monkeypatch.setattr(delaying, name, getattr(consuming.calls, name))
    consuming.calls._size.return_value = consuming.calls._purge.return_value = 100
    consuming.calls.count_parked.return_value = consuming.calls.drop_parked.return_value = 20
    return channel


MESSAGE: dict[str, Any] = {"headers": {}, "properties": {"priority": 5, "delivery_tag": "t"}}


def test_a_queue_without_delays_is_published_to_as_kombu_does(
    consuming: Consuming, publishing: Any
) -> None:
    publishing._put("a", MESSAGE, _publish_batch=None)
    publishing.ack_emulation = False
    publishing._put("late", MESSAGE)
    stock = [call._put("a", MESSAGE, _publish_batch=None), call._put("late", MESSAGE)]
    assert consuming.new_calls == stock
    assert publishing.server.sent == []


def test_a_delayed_queue_is_published_to_alone_or_in_a_batch(
    consuming: Consuming, publishing: Any
) -> None:
    publishing._put("late", MESSAGE)
    [(verb, name, _)] = publishing.server.sent
    assert (verb, name) == ("LPUSH", "p.late|3")
    publishing._put("late", MESSAGE, _publish_batch=(batch := Mock()))
    assert batch.add.call_args_list == [call("execute_command", *publishing.server.sent[0])]
    assert len(publishing.server.sent) == 1
    assert consuming.new_calls == []


def test_a_queue_is_counted_purged_and_deleted_with_its_delayed_and_parked_messages(
    consuming: Consuming, publishing: Any
) -> None:
    assert (publishing._size("a"), publishing._size("late")) == (120, 127)
    counted = [("ZCARD", "p.late.due"), ("ZCARD", "p.late|3.due")]
    assert publishing.server.sent == counted
    assert (publishing._purge("a"), publishing._purge("late")) == (120, 127)
    unlink = ("UNLINK", "p.late.due", "p.late|3.due", "p.late.due.texts", "p.late.due.next")
    assert publishing.server.sent[2:] == [*counted, unlink]
    consuming.new_calls  # noqa: B018
    publishing._delete("late", 1, more=2)
    assert consuming.new_calls == [
        call._delete("late", 1, more=2),
        call.drop_parked(publishing, "late"),
    ]
    assert publishing.server.sent[-1] == unlink
    assert publishing.delayed_keys("late") == (
        "late.due.next", "late.due.leader", "late.due.texts", "late.due", "late|3.due",
    )  # fmt: skip


# Whether kombu knows the queue, how many messages are delayed and in lines, whether it exists.
@pytest.mark.parametrize(
    ("known", "delayed", "parked", "has"),
    [(True, 0, 0, True), (False, 1, 0, True), (False, 0, 1, True), (False, 0, 0, False)],
)
def test_a_queue_is_there_while_a_message_waits_anywhere(
    consuming: Consuming, publishing: Any, *, known: bool, delayed: int, parked: int, has: bool
) -> None:
    consuming.calls._has_queue.return_value, consuming.calls.count_parked.return_value = (
        known,
        parked,
    )
    publishing.server = Server(0, delayed)
    assert publishing._has_queue("late", more=1) is has
    consuming.calls._has_queue.assert_called_once_with("late", more=1)


def test_connections_by_sentinels_have_what_kombu_gives_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Channel, "_connparams", lambda _, **how: {"db": 2, **how})
    channel: Any = SentinelChannel.__new__(SentinelChannel)
    channel.sentinels, channel.master_name, channel.sentinel_kwargs = [("host", 1)], "main", {}
    assert channel._connparams().keys() == {"db", "asynchronous", "sentinels"}
    assert channel._connparams()["asynchronous"] is False
    assert channel._connparams(asynchronous=True)["asynchronous"] is True
