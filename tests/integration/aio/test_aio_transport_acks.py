"""How the transport acknowledges messages, and returns the others when it ends."""

import json
import socket
from typing import Any

import pytest
import redis
from kombu import Consumer, Exchange, Queue

from sandbox.redis import EmbeddedRedis
from tests.integration.aio.transport_harness import (
    Receiver,
    calls,
    queue_of,
    receiving,
    send,
    waiting,
)
from tests.processes import eventually


def test_acknowledgements_of_one_moment_go_out_together(url: str, books: Any) -> None:
    with receiving(url, "a", prefetch=100) as receiver:
        receiver.with_hub()
        send(url, "a", *range(100))
        receiver.until(lambda: len(receiver.messages) == 100)
        before = calls(books, "zrem"), calls(books, "hdel")
        for message in receiver.messages:
            message.ack()
        assert books.hlen("unacked") == 100
        receiver.turn()
        assert books.hlen("unacked") == books.zcard("unacked_index") == 0
        assert (calls(books, "zrem"), calls(books, "hdel")) == (before[0] + 2, before[1] + 1)


def test_without_a_hub_an_acknowledgement_goes_out_at_once(url: str, books: Any) -> None:
    with receiving(url, "a") as receiver:
        send(url, "a", 1)
        receiver.until(lambda: receiver.messages)
        receiver.messages[0].ack()
        assert books.hlen("unacked") == 0


def test_an_acknowledgement_goes_by_the_taking_connection_unless_that_is_in_use(
    url: str, books: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving(url, "a", prefetch=10) as receiver:
        receiver.with_hub()
        send(url, "a", 1, 2)
        receiver.until(lambda: len(receiver.messages) == 2 and receiver.channel.hints.all_empty)
        with monkeypatch.context() as patched:
            patched.setattr(receiver.channel, "conn_or_acquire", None)
            receiver.messages[0].ack()
            receiver.channel.qos.flush_acks(beside=True)
        assert books.hlen("unacked") == 1
        receiver.channel.hints.look_everywhere()
        receiver.until_asked()
        receiver.messages[1].ack()
        receiver.channel.qos.flush_acks(beside=True)
        assert books.hlen("unacked") == 0
        send(url, "a", 3)
        receiver.until(lambda: len(receiver.messages) == 3)


def test_invalidations_that_come_before_the_acknowledgement_are_not_lost(url: str) -> None:
    with receiving(url, "a", prefetch=10) as receiver:
        receiver.with_hub()
        send(url, "a", 1)
        receiver.until(lambda: receiver.messages and receiver.channel.hints.all_empty)
        send(url, "a", 2)
        receiver.messages[0].ack()
        receiver.channel.qos.flush_acks(beside=True)
        assert not receiver.channel.hints.all_empty
        receiver.until(lambda: len(receiver.messages) == 2)


def test_acknowledgements_do_not_wait_for_a_hub_that_stands_still(url: str, books: Any) -> None:
    with receiving(url, "a") as receiver:
        receiver.with_hub()
        send(url, "a", 1, 2)
        receiver.until(lambda: len(receiver.messages) == 2)
        receiver.messages[0].ack()
        assert books.hlen("unacked") == 2
        receiver.channel.qos._oldest_s -= 1  # as if it had waited for a second
        receiver.messages[1].ack()
        assert books.hlen("unacked") == 0


def test_a_server_that_refuses_acknowledgements_ends_nothing_and_has_them_later(
    url: str, books: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with receiving(url, "a") as receiver:
        receiver.with_hub()
        send(url, "a", 1, 2)
        receiver.until(lambda: len(receiver.messages) == 2)
        books.config_set("min-replicas-to-write", 1)  # refuses all writes, as a full disk does
        try:
            for message in receiver.messages:
                message.ack()
            receiver.until(lambda: "the broker refuses acknowledgements" in caplog.text)
            receiver.channel.qos.restore_visible()
            assert "the broker redelivers nothing now" in caplog.text
            assert books.hlen("unacked") == 2
        finally:
            books.config_set("min-replicas-to-write", 0)
        receiver.until(lambda: not books.hlen("unacked"))


def test_acknowledgements_that_are_not_sent_yet_go_out_on_close(url: str, books: Any) -> None:
    with receiving(url, "a") as receiver:
        receiver.with_hub()
        send(url, "a", 1, 2)
        receiver.until(lambda: len(receiver.messages) == 2)
        receiver.messages[0].ack()
    assert waiting(books, "a") == [2]
    assert books.hlen("unacked") == books.zcard("unacked_index") == 0


@pytest.mark.parametrize("first", ["hint", "reply"])
def test_a_hint_that_comes_with_the_reply_to_an_acknowledgement_is_read(
    url: str, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving(url, "a", prefetch=100) as receiver:
        receiver.with_hub()
        send(url, "a", 1)
        receiver.until(lambda: receiver.messages and receiver.channel.hints.all_empty)
        connection = receiver.channel.client.connection
        run = connection.send_command

        def answered() -> bytes:
            return bytes(connection._sock.recv(4096, socket.MSG_PEEK))

        def run_and_enqueue(*command: Any, **options: Any) -> None:
            monkeypatch.undo()
            if first == "hint":
                send(url, "a", 2)
                eventually(lambda: b"invalidate" in answered())
            run(*command, **options)
            eventually(lambda: b":1\r\n" in answered())
            if first == "reply":
                send(url, "a", 2)
                eventually(lambda: b"invalidate" in answered())

        monkeypatch.setattr(connection, "send_command", run_and_enqueue)
        receiver.messages[0].ack()
        receiver.until(
            lambda: len(receiver.messages) == 2, within_s=5
        )  # the queues are read again after 10 s


def test_an_acknowledgement_after_the_end_is_refused_if_there_are_no_leases(url: str) -> None:
    receiver = Receiver(url, "a", lease_s=0)
    send(url, "a", 1)
    receiver.until(lambda: receiver.messages)
    receiver.close()
    with pytest.raises(redis.ConnectionError, match="is closed"):
        receiver.messages[0].ack()


def test_a_rejected_message_is_dropped_or_comes_again(url: str, books: Any) -> None:
    with receiving(url, "a") as receiver:
        receiver.with_hub()
        send(url, "a", 1, 2)
        receiver.until(lambda: len(receiver.messages) == 2)
        receiver.messages[0].reject()
        receiver.messages[1].requeue()
        receiver.until(lambda: len(receiver.messages) == 3)
        assert receiver.bodies == [1, 2, 2]
        assert receiver.messages[2].headers["redelivered"]
        assert books.hlen("unacked") == 1


def test_closing_gives_back_what_was_delivered_in_its_order(url: str, books: Any) -> None:
    send(url, "a", *range(5))
    send(url, "a", 9, priority=9)
    with receiving(url, "a", prefetch=4) as receiver:
        receiver.until(lambda: len(receiver.messages) == 4)
        receiver.messages[1].ack()
    assert waiting(books, "a") == [0, 2, 3, 4]
    assert waiting(books, "a\x06\x169") == [9]
    assert [
        json.loads(text)["headers"].get("redelivered") for text in books.lrange("a", 0, -1)
    ] == [None] + [True] * 3
    assert books.hlen("unacked") == books.zcard("unacked_index") == 0


def test_closing_returns_the_messages_of_a_reply_that_has_not_been_read(
    url: str, books: Any
) -> None:
    send(url, "a", *range(5))
    texts = books.lrange("a", 0, -1)
    with receiving(url, "a", prefetch=3) as receiver:
        receiver.until_asked()
    assert books.lrange("a", 0, -1) == texts  # untouched, because no worker had them
    assert books.hlen("unacked") == books.zcard("unacked_index") == 0
    assert receiver.messages == []


def test_cancelling_the_last_consumer_returns_the_messages_of_a_reply_that_has_not_been_read(
    url: str, books: Any
) -> None:
    send(url, "a", *range(5))
    texts = books.lrange("a", 0, -1)
    with receiving(url, "a", "b", prefetch=3) as receiver:
        receiver.with_hub()
        receiver.until_asked()
        receiver.consumer.cancel_by_queue("b")
        assert receiver.channel._in_poll
        receiver.consumer.cancel_by_queue(
            "a"
        )  # as a warm shutdown does, and then waits for its jobs
        assert books.lrange("a", 0, -1) == texts
        assert (
            books.hlen("unacked")
            == books.zcard("unacked_index")
            == books.zcard("unacked.leases")
            == 0
        )
        receiver.turn()
        receiver.consumer.add_queue(queue_of("a"))
        receiver.consumer.consume()
        receiver.until(lambda: receiver.bodies == [0, 1, 2])


# While a reply is read, and while its messages are handed over and the next reply is awaited.
@pytest.mark.parametrize("during", ["reading", "delivering"])
def test_the_last_consumer_may_be_cancelled_at_any_instant(
    url: str, books: Any, monkeypatch: pytest.MonkeyPatch, during: str
) -> None:
    send(url, "a", *range(5))
    with receiving(url, "a", prefetch=4) as receiver:
        receiver.with_hub()
        receiver.until_asked()
        if during == "delivering":
            receiver.on_message = lambda _: receiver.consumer.cancel()
        else:
            connection = receiver.channel.client.connection
            read = connection.read_response

            def interrupted(**options: Any) -> Any:
                receiver.consumer.cancel()  # in a signal handler
                return read(**options)

            monkeypatch.setattr(connection, "read_response", interrupted)
        receiver.until(lambda: not receiver.channel.active_queues and not receiver.channel._in_poll)
        had = receiver.bodies
        assert had == [0][: during == "delivering"]
        assert waiting(books, "a") == [*range(len(had), 5)]
        assert books.hlen("unacked") == len(had)


@pytest.mark.parametrize("lease_s", [60, 0])
def test_every_channel_ends_with_its_connection_though_the_server_is_down(
    server: EmbeddedRedis, url: str, books: Any, caplog: pytest.LogCaptureFixture, lease_s: int
) -> None:
    receiver = Receiver(url, "a", lease_s=lease_s, visibility_timeout=900)
    receiver.with_hub()
    assert receiver.hub is not None
    # As in Celery's remote control: a queue that is deleted with its channel, which needs the
    # server.
    other = receiver.connection.channel()
    fanout = Exchange("told", type="fanout")
    Consumer(
        other, [Queue("ear", fanout, auto_delete=True)], on_message=print, no_ack=True
    ).consume()
    send(url, "a", 1, 2)
    receiver.until(lambda: len(receiver.messages) == 2)
    receiver.messages[0].ack()
    server.stop()
    try:
        receiver.connection.collect()  # as Celery does
        receiver.connection.close()
        assert receiver.channel.closed
        assert other.closed
        assert not receiver.hub.on_tick, (
            "the hub would ask for messages in the name of a closed channel"
        )
        with pytest.raises(redis.ConnectionError, match="is closed"):
            receiver.channel._connparams()
    finally:
        server.start()
        receiver.hub.close()
    with receiving(url, "a", lease_s=lease_s, visibility_timeout=900) as second:
        second.with_hub()
        if lease_s:
            # Returned by the first, so it comes at once.
            second.until(lambda: second.messages, within_s=30)
            assert second.bodies == [2]
    if lease_s:
        assert "cannot put 2 messages back" not in caplog.text
        assert "Traceback" not in caplog.text


def test_an_acknowledgement_that_cannot_be_sent_is_kept_and_logged_in_one_line(
    url: str, books: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with receiving(url, "a") as receiver:
        send(url, "a", 1)
        receiver.until(lambda: receiver.messages)
        with monkeypatch.context() as patch:

            def refuse() -> None:
                raise redis.ConnectionError("no road")

            patch.setattr(receiver.channel.qos, "flush_acks", refuse)
            receiver.messages[0].ack()
        assert "cannot acknowledge now (no road)" in caplog.text
        assert "Traceback" not in caplog.text
        receiver.channel.flush_acks()
        assert books.hlen("unacked") == 0
