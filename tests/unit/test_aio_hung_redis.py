"""A worker that ends does not wait for a Redis that does not answer its commands."""

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
import redis
from celery import signals

from worker.aio import hung_redis
from worker.aio.connections import BlockingTcpConnection
from worker.aio.hung_redis import HungRedis

LONG_S = 60.0


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> Iterator[HungRedis]:
    watch = HungRedis(silent_s=0.05)
    monkeypatch.setattr(hung_redis, "of_process", watch)
    yield watch
    watch.end()


class Server:
    """A server that accepts connections and answers only when told to."""

    def __init__(self, listener: socket.socket, to_close: ExitStack) -> None:
        self._listener = listener
        self._to_close = to_close

    def accept(self) -> socket.socket:
        return self._to_close.enter_context(self._listener.accept()[0])

    def connection(self, *, timeout_s: float | None) -> BlockingTcpConnection:
        opened = BlockingTcpConnection(
            host="127.0.0.1",
            port=self._listener.getsockname()[1],
            socket_timeout=timeout_s,
            protocol=2,
            driver_info=None,
        )
        self._to_close.callback(opened.disconnect)
        return opened


@pytest.fixture
def server() -> Iterator[Server]:
    with ExitStack() as to_close, socket.create_server(("127.0.0.1", 0)) as listener:
        yield Server(listener, to_close)


class Command:
    """A command that a thread sends."""

    def __init__(self, connection: BlockingTcpConnection) -> None:
        self.reply: object = None
        self._thread = threading.Thread(target=self._ask, args=(connection,), daemon=True)
        self._thread.start()

    def _ask(self, connection: BlockingTcpConnection) -> None:
        try:
            connection.send_command("PING")
            self.reply = connection.read_response()
        except redis.RedisError as exc:
            self.reply = exc

    def wait(self) -> object:
        self._thread.join(20)
        return self.reply


@pytest.mark.parametrize("timeout_s", [None, LONG_S])
def test_a_command_without_an_answer_fails_once_the_worker_ends(
    hung: HungRedis, server: Server, timeout_s: float | None
) -> None:
    command = Command(connection := server.connection(timeout_s=timeout_s))
    server.accept()
    while connection.asked_s is None:
        pass
    assert not hung.silent
    hung.begin()
    assert isinstance(command.wait(), redis.ConnectionError)
    assert hung.silent
    with pytest.raises(redis.ConnectionError, match="Redis does not answer, and this worker ends"):
        server.connection(timeout_s=LONG_S).connect()


def test_a_worker_that_does_not_end_waits_for_its_answer(hung: HungRedis, server: Server) -> None:
    hung.prepare()
    command = Command(connection := server.connection(timeout_s=LONG_S))
    near = server.accept()
    near.recv(1_000)
    near.sendall(b"+PONG\r\n")
    assert command.wait() == b"PONG"
    assert not hung.silent
    assert connection.asked_s is None, "no command waits any more"


def test_an_answer_on_a_connection_with_a_short_timeout_ends_the_silence(
    hung: HungRedis, server: Server
) -> None:
    leases = Command(server.connection(timeout_s=hung_redis.SHORT_TIMEOUT_S))
    near = server.accept()
    patient = Command(server.connection(timeout_s=LONG_S))
    server.accept()
    hung.begin()
    assert isinstance(patient.wait(), redis.ConnectionError)
    near.recv(1_000)
    near.sendall(b"+PONG\r\n")
    assert leases.wait() == b"PONG"
    assert not hung.silent
    again = Command(server.connection(timeout_s=LONG_S))
    near = server.accept()
    near.recv(1_000)
    near.sendall(b"+PONG\r\n")
    assert again.wait() == b"PONG"


def test_a_signal_that_comes_while_the_one_before_is_handled_stops_no_worker_from_ending(
    hung: HungRedis,
) -> None:
    """In about one of a hundred ends a worker hung: both handlers waited for an event's lock."""

    def signalled() -> None:
        sys.setprofile(lambda *_: hung.begin())  # before and after each call
        hung.begin()
        sys.setprofile(None)

    handling = threading.Thread(target=signalled, daemon=True)
    handling.start()
    handling.join(20)
    assert not handling.is_alive()


class WatchedConnection:
    """A connection as the watch sees it; `is_lost`: the watch has shut it down."""

    def __init__(
        self, asked_s: float | None = None, *, timeout_s: float | None = LONG_S, **at: Any
    ) -> None:
        self.asked_s, self.socket_timeout = asked_s, timeout_s
        self.__dict__ |= at or {"host": "h", "port": 1}
        self._near, self._far = socket.socketpair()
        self._sock: Any = self._near

    def close(self) -> None:
        self._near.close()
        self._far.close()

    @property
    def is_lost(self) -> bool:
        self._far.setblocking(False)
        try:
            return self._far.recv(1) == b""
        except BlockingIOError:
            return False


class Watch:
    """A watch of servers that may be silent for four seconds, at a given second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hung, self.now_s = HungRedis(silent_s=4.0), 1000.0
        self.to_close = ExitStack()
        clock = SimpleNamespace(monotonic=lambda: self.now_s)
        monkeypatch.setattr(hung_redis, "time", clock)

    def knows(self, *connections: WatchedConnection) -> None:
        for each in connections:
            self.to_close.callback(each.close)
            self.hung.enter(each)

    def look_at(self, now_s: float) -> None:
        self.now_s = now_s
        self.hung._look()


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    watched = Watch(monkeypatch)
    with watched.to_close:
        yield watched
    watched.hung.end()


def test_only_patient_connections_to_the_silent_server_are_lost(
    watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    waiting, idle, leases = (
        WatchedConnection(1000.0),
        WatchedConnection(),
        WatchedConnection(timeout_s=hung_redis.SHORT_TIMEOUT_S),
    )
    endless, just_over = (
        WatchedConnection(timeout_s=None),
        WatchedConnection(timeout_s=hung_redis.SHORT_TIMEOUT_S + 0.1),
    )
    elsewhere = (
        WatchedConnection(host="h", port=2),
        WatchedConnection(host="i", port=1),
        WatchedConnection(1001.0, path="/b.sock"),
    )
    watch.knows(waiting, idle, leases, endless, just_over, *elsewhere)
    watch.look_at(1004.0)
    assert not watch.hung.silent
    watch.look_at(1004.1)
    lost = [each.is_lost for each in (waiting, idle, leases, endless, just_over, *elsewhere)]
    assert lost == [True, True, False, True, True, False, False, False]
    words = (
        "Redis has not answered for 4 s, so this worker ends without it: messages that "
        "are not acknowledged come back when their leases end"
    )
    assert caplog.messages == [words]
    watch.look_at(1004.2)
    assert caplog.messages == [words]
    watch.look_at(1005.1)
    assert caplog.messages == [words] * 2
    assert elsewhere[2].is_lost
    assert not elsewhere[0].is_lost
    watch.knows(
        WatchedConnection(timeout_s=hung_redis.SHORT_TIMEOUT_S), WatchedConnection(host="h", port=2)
    )
    for silent in (WatchedConnection(), WatchedConnection(path="/b.sock")):
        with pytest.raises(redis.ConnectionError, match="Redis does not answer"):
            watch.knows(silent)
    watch.hung.note_answer(leases)
    watch.knows(WatchedConnection())
    with pytest.raises(redis.ConnectionError, match="Redis does not answer"):
        watch.knows(WatchedConnection(path="/b.sock"))


def test_a_connection_that_is_not_open_or_was_just_lost_is_passed_over(watch: Watch) -> None:
    closed, unopened, last = WatchedConnection(1000.0), WatchedConnection(), WatchedConnection()
    watch.knows(closed, unopened, last)
    closed.close()
    unopened._sock = None
    watch.look_at(1010.0)
    assert last.is_lost


# The ways in which the worker ends, in order, and after how long a server counts as silent.
@pytest.mark.parametrize(
    ("colds", "silent_s"), [([False], 4), ([True], 1), ([False, True], 1), ([True, False], 1)]
)
def test_a_cold_end_waits_less(
    watch: Watch, caplog: pytest.LogCaptureFixture, colds: list[bool], silent_s: float
) -> None:
    for cold in colds:
        watch.hung.begin(**{"cold": True} if cold else {})
    watch.hung.end()
    watch.knows(WatchedConnection(1000.0))
    watch.look_at(1000.0 + silent_s)
    assert not watch.hung.silent
    watch.look_at(1000.1 + silent_s)
    assert caplog.messages[0].startswith(f"Redis has not answered for {silent_s} s,")


def test_a_watch_that_is_shorter_than_that_of_a_cold_end_keeps_its_length(hung: HungRedis) -> None:
    hung.begin(cold=True)
    assert hung._silent_s == 0.05


def test_the_watch_looks_from_the_beginning_of_the_end_until_it_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hung_redis, "_STEP_S", 0.001)
    looked, before = threading.Event(), set(threading.enumerate())
    hung = HungRedis()
    monkeypatch.setattr(hung, "_look", looked.set)
    hung.prepare()
    hung.prepare()
    [thread] = set(threading.enumerate()) - before
    assert thread.daemon
    assert not looked.wait(0.05)
    hung.begin()
    assert looked.wait(20)
    assert set(threading.enumerate()) - before == {thread}
    hung.end()
    thread.join(20)
    assert not thread.is_alive()


def test_a_watch_that_has_not_begun_ends_too() -> None:
    before = set(threading.enumerate())
    hung = HungRedis()
    hung.prepare()
    [thread] = set(threading.enumerate()) - before
    hung.end()
    thread.join(20)
    assert not thread.is_alive()


def test_a_worker_watches_from_the_signal_that_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Mock()
    monkeypatch.setattr(hung_redis, "of_process", watched)
    hung_redis.watch_ends()
    hung_redis.watch_ends()
    ours = {signals.worker_process_init: "_prepare", signals.worker_shutting_down: "_begin"}
    for signal, name in ours.items():
        receivers = [each for _, each in signal.receivers]
        assert receivers.count(getattr(hung_redis, name)) == 1
    hung_redis._prepare(sender="w@host")
    for how in ("Warm", "Cold"):
        hung_redis._begin(sender="w@host", sig="TERM", how=how)
    hung_redis._begin()
    colds = [call.begin(cold=cold) for cold in (False, True, False)]
    assert watched.mock_calls == [call.prepare(), *colds]
