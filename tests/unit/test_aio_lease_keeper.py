"""The keeper of leases: its commands and their times, without a server."""

import threading
from collections import deque
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import redis

from worker.aio.transport import leases, unacked
from worker.aio.transport.leases import LeaseKeeper, connecting
from worker.aio.transport.scripts import FORGET, RENEW
from worker.aio.transport.unacked import Unacked

KEYS = ("unacked", "index", "leases", "pulse")


class Server:
    """Notes commands, fails as planned, and has some leases."""

    def __init__(self) -> None:
        self.sent: list[list[Any]] = []
        self.errors: deque[Exception | None] = deque()
        self.connection_pool = Mock()
        self.has_command = threading.Semaphore(0)
        self.connections = 0

    def connect(self) -> Any:
        self.connections += 1
        return self

    def execute_command(self, *command: Any) -> None:
        error = self.errors.popleft() if self.errors else None
        if error is not None:
            raise error
        self.sent.append(list(command))
        self.has_command.release()

    def zscan_iter(self, key: str, *, match: str, count: int) -> Any:
        assert (key, count) == ("leases", 500)
        self.sent.append(["ZSCAN", match])
        return iter([(b"a@7", 1.0), ("b@7", 2.0)])


class Holding:
    def __init__(self, *tags: str) -> None:
        self.tags = tags

    def held_tags(self) -> Iterable[str]:
        return self.tags


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def keeper(server: Server, monkeypatch: pytest.MonkeyPatch) -> LeaseKeeper:
    monkeypatch.setattr(unacked, "of_process", Unacked())
    return LeaseKeeper(server.connect, lease_s=600, keys=KEYS)


@pytest.fixture
def unstarted(keeper: LeaseKeeper, monkeypatch: pytest.MonkeyPatch) -> LeaseKeeper:
    """A keeper whose thread does not begin, and a clock."""
    monkeypatch.setattr(leases, "threading", SimpleNamespace(Thread=Mock()))
    clock = SimpleNamespace(monotonic=lambda: 1000.0, time=lambda: 1700.5)
    monkeypatch.setattr(leases, "time", clock)
    return keeper


def forget(*tags: str) -> list[Any]:
    return ["EVAL", FORGET, 3, "unacked", "index", "leases", *tags]


def release(*tags: str) -> list[Any]:
    return ["ZADD", "leases", "XX", *(part for tag in tags for part in (0, tag))]


def renew(*tags: str) -> list[Any]:
    return ["EVAL", RENEW, 3, "pulse", "leases", "index", 300, 600, "1700.5", *tags]


def test_the_leases_of_all_holders_are_renewed_in_parts(
    unstarted: LeaseKeeper, server: Server
) -> None:
    tags = [str(number) for number in range(501)]
    holders = [Holding(*tags[:250]), Holding(*tags[250:500])]
    for holder in holders:
        unstarted.join(holder)
    unstarted.detach(tags[500:])
    unstarted.catch_up()
    assert [len(command) for command in server.sent] == [9 + 500, 9 + 1]
    assert [command[:9] for command in server.sent] == [renew()] * 2
    assert sorted(tag for command in server.sent for tag in command[9:]) == sorted(tags)
    assert unstarted._renew_at_s == 1150
    server.connection_pool.disconnect.assert_not_called()
    for holder in holders:
        unstarted.leave(holder)
    unstarted.release_detached()
    del server.sent[:]
    unstarted.catch_up()
    assert server.sent == [release(tags[500])]
    server.connection_pool.disconnect.assert_called_once_with()
    unstarted.catch_up()
    assert server.connections == 1, "a keeper without leases needs no connection"


def test_a_holder_that_is_gone_holds_nothing(unstarted: LeaseKeeper, server: Server) -> None:
    unstarted.join(Holding("1"))
    unstarted.catch_up()
    assert server.sent == []


@pytest.mark.parametrize("error", [redis.ConnectionError("gone"), OSError("reset")])
def test_commands_that_cannot_be_sent_are_kept_in_their_order(
    unstarted: LeaseKeeper, server: Server, error: Exception
) -> None:
    tags = [str(number) for number in range(1001)]
    unstarted.acknowledge(iter(tags))
    unstarted.release(iter(tags))
    server.errors += [None, error]
    unstarted.catch_up()
    assert server.sent == [forget(*tags[:500])]
    server.errors += [None, None, None, error]
    with pytest.raises(type(error)):
        unstarted.flush_acks()
    assert server.sent[1:] == [
        forget(*tags[500:1000]), forget(*tags[1000:]), release(*tags[:500]),
    ]  # fmt: skip
    unstarted.flush_acks()
    assert server.sent[4:] == [release(*tags[500:1000]), release(*tags[1000:])]
    unstarted.flush_acks()
    assert len(server.sent) == 6
    server.errors.append(ZeroDivisionError())
    unstarted.acknowledge(["x"])
    with pytest.raises(ZeroDivisionError):
        unstarted.catch_up()


def test_messages_of_a_request_whose_reply_was_lost_are_found_by_its_suffix(
    unstarted: LeaseKeeper, server: Server
) -> None:
    unstarted.flush_acks()
    assert server.connections == 0
    unstarted.release_unanswered("@7")
    unstarted.flush_acks()
    assert server.sent == [["ZSCAN", "*@7"], release("a@7", "b@7")]
    unstarted.flush_acks()
    assert len(server.sent) == 2


# An event while the thread sleeps, and the command that it sends at once.
@pytest.mark.parametrize(
    ("comes", "sent"),
    [
        (lambda keeper: keeper.acknowledge(["a"]), [forget("a")]),
        (lambda keeper: keeper.release(["a"]), [release("a")]),
        (lambda keeper: keeper.release_unanswered("@7"), [["ZSCAN", "*@7"], release("a@7", "b@7")]),
    ],
)
def test_the_thread_sends_new_commands_at_once_and_ends_with_its_last_holder(
    keeper: LeaseKeeper, server: Server, comes: Callable[[LeaseKeeper], None], sent: list[Any]
) -> None:
    holding = Holding("held")
    keeper.join(holding)
    thread = keeper._thread
    assert thread is not None
    assert thread.daemon
    keeper.join(holding)
    assert keeper._thread is thread
    assert server.has_command.acquire(timeout=20)
    comes(keeper)
    assert server.has_command.acquire(timeout=20), (
        "without a wake-up, the thread would renew only after 150 s"
    )
    assert server.sent[1:] == sent
    keeper.leave(holding)
    thread.join(20)
    assert not thread.is_alive()
    server.connection_pool.disconnect.assert_called_once_with()


def test_the_thread_goes_on_for_the_messages_of_closed_channels(
    keeper: LeaseKeeper, server: Server
) -> None:
    holding = Holding()
    keeper.join(holding)
    thread = keeper._thread
    assert thread is not None
    keeper.detach(["a"])
    keeper.leave(holding)
    for tag in ("b", "a"):
        keeper.acknowledge([tag])
        while forget(tag) not in server.sent:
            assert server.has_command.acquire(timeout=20)
    keeper.leave(holding)
    thread.join(20)
    assert not thread.is_alive()
    acknowledged = [tag for command in server.sent if command[1] == FORGET for tag in command[6:]]
    assert acknowledged == ["b", "a"]


@pytest.mark.parametrize("way", ["acknowledge", "release"])
def test_at_every_instant_a_message_of_a_closed_channel_keeps_the_thread(
    unstarted: LeaseKeeper, way: str
) -> None:
    """If the thread ended in between, commands that come then would not be sent."""

    class Detached(set[str]):
        def difference_update(self, *tags: Iterable[object]) -> None:
            assert unstarted._pending
            super().difference_update(*tags)

    unstarted._detached = Detached({"a"})
    getattr(unstarted, way)(["a"])
    assert (unstarted.detached, unstarted._pending) == (0, True)


def test_a_worker_that_ends_has_its_keeper_send_waiting_acknowledgements(
    unstarted: LeaseKeeper, server: Server
) -> None:
    unstarted.join(holding := Holding())
    unstarted.acknowledge(["a"])
    unacked.of_process.flush_acks()
    assert server.sent == [forget("a")]
    del holding


# The length of a lease, and how long a call may take.
@pytest.mark.parametrize(("lease_s", "timeout_s"), [(60, 5), (10, 5), (2, 1)])
@pytest.mark.parametrize("connects", [True, False])
def test_a_call_of_the_thread_never_blocks_for_long(
    lease_s: float, timeout_s: float, *, connects: bool
) -> None:
    params: dict[str, Any] = {"host": "h", "socket_timeout": 90}
    params |= {"socket_connect_timeout": 90} if connects else {}
    given = dict(params)
    pool = connecting(params, lease_s)().connection_pool
    options = pool.connection_kwargs
    assert options["socket_timeout"] == timeout_s
    assert options.get("socket_connect_timeout") == (timeout_s if connects else None)
    assert (options["host"], pool.max_connections) == ("h", 1)
    assert options["retry"].get_retries() == 0
    assert params == given
