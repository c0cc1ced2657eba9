"""The transport where a consumer raises, the server refuses or the connection breaks."""

from typing import Any

import pytest
import redis
from kombu.exceptions import OperationalError

from tests.integration.aio.transport_harness import (
    send,
    tube,
    waiting,
)
from tests.processes import eventually


def test_where_a_consumer_raises_the_messages_behind_go_back(url: str, books: Any) -> None:
    send(url, "a", *range(5))
    with tube(url, "a", prefetch=5) as one:

        def fail(message: Any) -> None:
            if len(one.got) == 2:
                raise ZeroDivisionError

        one.on_message = fail
        with pytest.raises(ZeroDivisionError):
            one.until(lambda: False)
        assert one.bodies == [0, 1]
        assert waiting(books, "a") == [2, 3, 4]
        assert books.hlen("unacked") == 2
    assert waiting(books, "a") == [0, 1, 2, 3, 4]


def test_flushed_scripts_are_sent_again(url: str, books: Any) -> None:
    with tube(url, "a") as one:
        one.with_hub()
        one.on_message = lambda message: message.ack()
        send(url, "a", 1)
        one.until(lambda: len(one.got) == 1)
        books.script_flush()
        send(url, "a", 2)
        one.until(lambda: len(one.got) == 2)
        send(url, "a", 3)
        one.until(lambda: len(one.got) == 3)


def test_a_server_that_refuses_is_asked_again_later(
    url: str, books: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with tube(url, "a") as one:
        one.with_hub()
        send(url, "a", 1)
        books.config_set("maxmemory", "1")
        try:
            one.until(lambda: "the broker gives out no messages" in caplog.text)
            assert books.llen("a") == 1
        finally:
            books.config_set("maxmemory", "0")
        one.until(lambda: one.got)


def test_a_server_that_became_a_replica_is_left(url: str, books: Any) -> None:
    with tube(url, "a") as one:
        one.with_hub()
        one.until(lambda: one.channel.hints.all_empty)
        send(url, "a", 1)
        books.execute_command("REPLICAOF", "127.0.0.1", "1")
        try:
            with pytest.raises(redis.ConnectionError, match="read only"):
                one.until(lambda: False)
        finally:
            books.execute_command("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize("hub", [True, False], ids=["with a hub", "without"])
def test_a_server_that_tells_of_no_changes_is_looked_at_often(
    url: str, books: Any, *, hub: bool
) -> None:
    books.execute_command(
        "ACL", "SETUSER", "deaf", "on", ">secret", "~*", "&*", "+@all", "-client|tracking"
    )
    deaf = url.replace("redis://", "redis://deaf:secret@")
    with tube(deaf, "a", prefetch=100) as one:
        if hub:
            one.with_hub()
        for number in range(3):
            one.until(lambda: one.channel.hints.all_empty)
            send(url, "a", number)
            one.until(lambda number=number: len(one.got) > number)
        assert one.channel.sweep_s < 1


def test_a_lost_connection_raises_and_the_next_one_gets_everything(url: str, books: Any) -> None:
    with tube(url, "a", prefetch=2) as one:
        one.with_hub()
        send(url, "a", *range(5))
        one.until(lambda: len(one.got) == 2)
        books.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        with pytest.raises((*one.connection.connection_errors, OperationalError)):
            one.until(lambda: False)
    with tube(url, "a", prefetch=0) as two:
        two.until(lambda: len(two.got) == 5)
        assert two.bodies == [0, 1, 2, 3, 4]


def test_what_a_request_took_is_released_when_its_reply_is_lost_with_the_connection(
    url: str, books: Any
) -> None:
    with tube(url, "a", lease_s=900) as one:
        one.with_hub()
        send(url, "a", *range(3))
        one.until_asked()
        eventually(lambda: books.hlen("unacked") == 3)
        assert one.channel.client.connection._sock.recv(1 << 20)  # the reply
        books.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        with pytest.raises((*one.connection.connection_errors, OperationalError)):
            one.until(lambda: False)
        assert not one.got
        eventually(lambda: _leases(books) == [0.0] * 3)
    with tube(url, "a") as two:
        two.until(lambda: len(two.got) == 3)


def test_what_cannot_be_put_back_after_a_consumer_has_raised_is_released(
    url: str, books: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with tube(url, "a", lease_s=900) as one:
        one.with_hub()

        def lose_the_server(_: Any) -> None:
            books.config_set("maxmemory", "1")
            raise RuntimeError("of the consumer")

        one.on_message = lose_the_server
        send(url, "a", *range(3))
        try:
            with pytest.raises(RuntimeError, match="of the consumer"):
                one.until(lambda: False)
        finally:
            books.config_set("maxmemory", "0")
        assert "cannot put 2 messages back now" in caplog.text
        eventually(lambda: _leases(books).count(0.0) == 2)


def _leases(books: Any) -> list[float]:
    return [lease for _, lease in books.zrange("unacked.leases", 0, -1, withscores=True)]
