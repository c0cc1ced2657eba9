"""A worker that ends does not wait for a Redis that leaves its questions open."""

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import redis

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
    """It accepts connections, and answers nothing by itself."""

    def __init__(self, listener: socket.socket, to_close: ExitStack) -> None:
        self._listener = listener
        self._to_close = to_close

    def accept(self) -> socket.socket:
        return self._to_close.enter_context(self._listener.accept()[0])

    def connection(self, *, timeout_s: float | None) -> BlockingTcpConnection:
        made = BlockingTcpConnection(
            host="127.0.0.1",
            port=self._listener.getsockname()[1],
            socket_timeout=timeout_s,
            protocol=2,
            driver_info=None,
        )
        self._to_close.callback(made.disconnect)
        return made


@pytest.fixture
def server() -> Iterator[Server]:
    with ExitStack() as to_close, socket.create_server(("127.0.0.1", 0)) as listener:
        yield Server(listener, to_close)


class Question:
    """A question that a thread asks."""

    def __init__(self, asking: BlockingTcpConnection) -> None:
        self.reply: object = None
        self._thread = threading.Thread(target=self._ask, args=(asking,), daemon=True)
        self._thread.start()

    def _ask(self, asking: BlockingTcpConnection) -> None:
        try:
            asking.send_command("PING")
            self.reply = asking.read_response()
        except redis.RedisError as exc:
            self.reply = exc

    def wait(self) -> object:
        self._thread.join(20)
        return self.reply


@pytest.mark.parametrize("timeout_s", [None, LONG_S])
def test_a_question_that_stays_open_ends_once_the_worker_ends(
    hung: HungRedis, server: Server, timeout_s: float | None
) -> None:
    question = Question(asking := server.connection(timeout_s=timeout_s))
    server.accept()
    while asking.asked_s is None:
        pass
    assert not hung.silent
    hung.begin()
    assert isinstance(question.wait(), redis.ConnectionError)
    assert hung.silent
    with pytest.raises(redis.ConnectionError, match="it does not answer, and this worker ends"):
        server.connection(timeout_s=LONG_S).connect()


def test_a_worker_that_does_not_end_waits_for_its_answer(hung: HungRedis, server: Server) -> None:
    hung.prepare()
    question = Question(server.connection(timeout_s=LONG_S))
    near = server.accept()
    near.recv(1_000)
    near.sendall(b"+PONG\r\n")
    assert question.wait() == b"PONG"
    assert not hung.silent


def test_an_answer_on_a_connection_that_is_left_alone_ends_the_silence(
    hung: HungRedis, server: Server
) -> None:
    leases = Question(server.connection(timeout_s=hung_redis.PATIENT_S))
    near = server.accept()
    patient = Question(server.connection(timeout_s=LONG_S))
    server.accept()
    hung.begin()
    assert isinstance(patient.wait(), redis.ConnectionError)
    near.recv(1_000)
    near.sendall(b"+PONG\r\n")
    assert leases.wait() == b"PONG"
    assert not hung.silent
    again = Question(server.connection(timeout_s=LONG_S))
    near = server.accept()
    near.recv(1_000)
    near.sendall(b"+PONG\r\n")
    assert again.wait() == b"PONG"


def test_a_signal_that_comes_while_the_one_before_is_handled_stops_no_worker_from_ending(
    hung: HungRedis,
) -> None:
    """A worker hung once in some hundred ends: both handlers wanted the lock of an event."""

    def signalled() -> None:
        sys.setprofile(lambda *_: hung.begin())  # before and after each call that is made
        hung.begin()
        sys.setprofile(None)

    handling = threading.Thread(target=signalled, daemon=True)
    handling.start()
    handling.join(20)
    assert not handling.is_alive()
