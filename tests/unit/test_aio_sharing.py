"""A channel without a server: when and how it puts its queues in order for their tenants."""

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
import redis

from worker.aio.transport import sharing
from worker.aio.transport.scripts import COUNT_PARKED, DROP_PARKED, SHARE
from worker.aio.transport.sharing import QueueSharing, count_parked, drop_parked

LISTS = ["p.a", "p.a|3", "p.b", "p.b|3"]
KEYS = ["p.unacked", "p.index", "p.unacked.leases", *LISTS]


class Channel:
    """The parts of a channel, its server and its hub that sharing uses."""

    def __init__(self) -> None:
        self.execute_command = Mock(return_value=2)
        self.chores = Mock()
        self.connection = SimpleNamespace(cycle=SimpleNamespace(hub=None, chores=self.chores))
        self.unacked_key, self.unacked_index_key, self.global_keyprefix = "unacked", "index", "p."
        self.priority_steps, self.delayed_queues = (0, 3), {"late": "a"}
        self.lease_s, self.visibility_timeout, self.knows_of_messages = 60.0, 3600.0, True
        self._q_for_pri = lambda queue, step: f"{queue}|{step}" if step else queue

    @contextmanager
    def conn_or_acquire(self) -> Iterator[Any]:
        yield self


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(s=1000.0, slept_s=[])
    time = SimpleNamespace(
        monotonic=lambda: clock.s, time=lambda: 1700.5, sleep=clock.slept_s.append
    )
    monkeypatch.setattr(sharing, "time", time)
    return clock


@pytest.fixture
def channel() -> Channel:
    return Channel()


@pytest.fixture
def shared(now: SimpleNamespace, channel: Channel) -> QueueSharing:
    sharing_queues = QueueSharing(channel)  # type: ignore[arg-type]
    for queue in ("a", "late", "b", "a"):
        sharing_queues.add(queue)
    return sharing_queues


# The result of the last read, whether messages wait, and when the next read is due.
@pytest.mark.parametrize(
    ("reply", "knows", "after_s"),
    [
        (3, False, 0.1),
        (2, False, 0.1),
        (1, True, 0.5),
        (1, False, 5.0),
        (0, True, 0.5),
        (0, False, 5),
    ],
)
def test_queues_are_looked_at_often_while_messages_name_tenants_and_rarely_while_none_waits(
    now: SimpleNamespace,
    channel: Channel,
    shared: QueueSharing,
    reply: int,
    after_s: float,
    *,
    knows: bool,
) -> None:
    channel.execute_command.return_value, channel.knows_of_messages = reply, knows
    now.s = shared.due_s
    shared.share()
    assert shared.due_s == now.s + after_s
    now.s += after_s - 0.001
    shared.share()
    assert channel.execute_command.call_count == 1
    now.s += 0.002
    shared.share()
    assert channel.execute_command.call_count == 2


def test_a_channel_without_a_queue_to_put_in_order_never_looks(
    now: SimpleNamespace, channel: Channel
) -> None:
    nothing_to_share = QueueSharing(channel)  # type: ignore[arg-type]
    nothing_to_share.add("late")  # delayed messages come in the order of their instants
    now.s += 1_000_000
    assert nothing_to_share.due_s == inf
    nothing_to_share.share()
    channel.execute_command.assert_not_called()


# The leases and the visibility timeout, and the script's arguments for both.
@pytest.mark.parametrize(
    ("lease_s", "visible_s", "safe_s", "leases"),
    [(60, 3600, 120, 1), (0.5, 3600, 120, 1), (0, 3600, 120, 0), (60, 50, 50, 1), (60, 0, 120, 1)],
)
def test_the_script_gets_all_lists_and_for_how_long_a_message_may_be_parked(
    channel: Channel,
    shared: QueueSharing,
    lease_s: float,
    visible_s: float,
    safe_s: float,
    *,
    leases: int,
) -> None:
    channel.lease_s, channel.visibility_timeout = lease_s, visible_s
    shared._ask()
    arguments = (7, *KEYS, "1700.5", safe_s, leases)
    [sent] = channel.execute_command.call_args_list
    assert sent.args[:-1] == ("EVALSHA", sharing._SHA, *arguments)
    assert 0.5 < sent.args[-1] / 1000 / sharing.SHARE_S < 1, (
        "the pause of other workers ends before the next read"
    )
    channel.execute_command.side_effect = [redis.exceptions.NoScriptError("NOSCRIPT"), 3]
    assert shared._ask() == 3
    again = channel.execute_command.call_args
    assert again.args[:-1] == ("EVAL", SHARE, *arguments)
    channel.execute_command.side_effect = redis.ResponseError("OOM")
    with pytest.raises(redis.ResponseError):
        shared._ask()


def test_if_a_hub_runs_the_order_is_a_chore_that_goes_on_while_there_is_more(
    now: SimpleNamespace, channel: Channel, shared: QueueSharing
) -> None:
    channel.connection.cycle.hub = object()
    now.s = shared.due_s
    shared.share()
    channel.execute_command.assert_not_called()
    [(words, whose, chore)] = [each.args for each in channel.chores.begin.call_args_list]
    assert (words, whose) == ("put the queues in order", shared)
    shared.share()
    assert channel.chores.begin.call_count == 1
    channel.execute_command.side_effect = [3, 3, 2]
    chore()
    assert channel.execute_command.call_count == 3
    assert len(now.slept_s) == 2
    assert all(0.005 < slept_s < sharing.SHARE_S / 2 for slept_s in now.slept_s)


def test_messages_that_wait_in_sublists_are_counted_and_dropped(channel: Channel) -> None:
    channel.execute_command.return_value = b"7"
    assert count_parked(channel, "a") == drop_parked(channel, "a") == 7
    assert channel.execute_command.call_args_list == [
        call("EVAL", COUNT_PARKED, 2, *LISTS[:2]),
        call("EVAL", DROP_PARKED, 5, *KEYS[:5]),
    ]
