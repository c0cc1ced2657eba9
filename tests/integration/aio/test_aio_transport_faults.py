"""The transport if a consumer raises, the server refuses or the connection breaks."""

from typing import Any

import pytest
import redis
from kombu.exceptions import OperationalError

from tests.integration.aio.transport_harness import (
    receiving,
    send,
    waiting,
)
from tests.processes import eventually


def test_if_a_consumer_raises_the_messages_behind_go_back(url: str, books: Any) -> None:
    send(url, "a", *range(5))
    with receiving(url, "a", prefetch=5) as receiver:

        def fail(message: Any) -> None:
            if len(receiver.messages) == 2:
                raise ZeroDivisionError

        receiver.on_message = fail
        with pytest.raises(ZeroDivisionError):
            receiver.until(lambda: False)
        assert receiver.bodies == [0, 1]
        assert waiting(books, "a") == [2, 3, 4]
        assert books.hlen("unacked") == 2
    assert waiting(books, "a") == [0, 1, 2, 3, 4]


def test_flushed_scripts_are_sent_again(url: str, books: Any) -> None:
    with receiving(url, "a") as receiver:
        receiver.with_hub()
        receiver.on_message = lambda message: message.ack()
        send(url, "a", 1)
        receiver.until(lambda: len(receiver.messages) == 1)
        books.script_flush()
        send(url, "a", 2)
        receiver.until(lambda: len(receiver.messages) == 2)
        send(url, "a", 3)
        receiver.until(lambda: len(receiver.messages) == 3)


def test_a_server_that_refuses_is_asked_again_later(
    url: str, books: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with receiving(url, "a") as receiver:
        receiver.with_hub()
        send(url, "a", 1)
        books.config_set("maxmemory", "1")
        try:
            receiver.until(lambda: "the broker delivers no messages" in caplog.text)
            assert books.llen("a") == 1
        finally:
            books.config_set("maxmemory", "0")
        receiver.until(lambda: receiver.messages)


def test_a_server_that_became_a_replica_is_left(url: str, books: Any) -> None:
    with receiving(url, "a") as receiver:
        receiver.with_hub()
        receiver.until(lambda: receiver.channel.hints.all_empty)
        send(url, "a", 1)
        books.execute_command("REPLICAOF", "127.0.0.1", "1")
        try:
            with pytest.raises(redis.ConnectionError, match="read only"):
                receiver.until(lambda: False)
        finally:
            books.execute_command("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize("hub", [True, False], ids=["with a hub", "without"])
def test_a_server_without_tracking_is_looked_into_often(url: str, books: Any, *, hub: bool) -> None:
    books.execute_command(
        "ACL", "SETUSER", "deaf", "on", ">secret", "~*", "&*", "+@all", "-client|tracking"
    )
    deaf = url.replace("redis://", "redis://deaf:secret@")
    with receiving(deaf, "a", prefetch=100) as receiver:
        if hub:
            receiver.with_hub()
        for number in range(3):
            receiver.until(lambda: receiver.channel.hints.all_empty)
            send(url, "a", number)
            receiver.until(lambda number=number: len(receiver.messages) > number)
        assert receiver.channel.sweep_s < 1


def test_a_lost_connection_raises_and_the_next_one_gets_everything(url: str, books: Any) -> None:
    with receiving(url, "a", prefetch=2) as receiver:
        receiver.with_hub()
        send(url, "a", *range(5))
        receiver.until(lambda: len(receiver.messages) == 2)
        books.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        with pytest.raises((*receiver.connection.connection_errors, OperationalError)):
            receiver.until(lambda: False)
    with receiving(url, "a", prefetch=0) as second:
        second.until(lambda: len(second.messages) == 5)
        assert second.bodies == [0, 1, 2, 3, 4]


def test_messages_are_released_when_the_reply_is_lost_with_the_connection(
    url: str, books: Any
) -> None:
    with receiving(url, "a", lease_s=900) as receiver:
        receiver.with_hub()
        send(url, "a", *range(3))
        receiver.until_asked()
        eventually(lambda: books.hlen("unacked") == 3)
        assert receiver.channel.client.connection._sock.recv(1 << 20)  # the reply
        books.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        with pytest.raises((*receiver.connection.connection_errors, OperationalError)):
            receiver.until(lambda: False)
        assert not receiver.messages
        eventually(lambda: _leases(books) == [0.0] * 3)
    with receiving(url, "a") as second:
        second.until(lambda: len(second.messages) == 3)


def test_messages_that_cannot_be_put_back_after_a_consumer_has_raised_are_released(
    url: str, books: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with receiving(url, "a", lease_s=900) as receiver:
        receiver.with_hub()

        def lose_the_server(_: Any) -> None:
            books.config_set("maxmemory", "1")
            raise RuntimeError("of the consumer")

        receiver.on_message = lose_the_server
        send(url, "a", *range(3))
        try:
            with pytest.raises(RuntimeError, match="of the consumer"):
                receiver.until(lambda: False)
        finally:
            books.config_set("maxmemory", "0")
        assert "cannot put 2 messages back now" in caplog.text
        eventually(lambda: _leases(books).count(0.0) == 2)


def _leases(books: Any) -> list[float]:
    return [lease for _, lease in books.zrange("unacked.leases", 0, -1, withscores=True)]
