"""A server far away: the consumer is not held up by replies that it need not wait for."""

import threading
from typing import Any

import pytest

from tests.integration.aio.transport_harness import Receiver, receiving, send
from tests.processes import eventually


def two_taken(receiver: Receiver, url: str) -> None:
    receiver.with_hub()
    send(url, "a", 1, 2)
    receiver.until(lambda: len(receiver.messages) == 2 and receiver.channel.hints.all_empty)
    receiver.channel.replies.is_near = False


def test_acknowledgements_are_not_waited_for_and_kept_until_they_are_confirmed(
    url: str, books: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving(url, "a", prefetch=10) as receiver:
        two_taken(receiver, url)
        qos, tag = receiver.channel.qos, receiver.messages[0].delivery_tag
        with monkeypatch.context() as patched:
            patched.setattr(receiver.channel, "conn_or_acquire", None)
            receiver.messages[0].ack()
            qos.flush_acks(beside=True)
        assert len(receiver.channel.replies) == 1, "the reply has not been read"
        assert tag in qos.held_tags(), "the lease is renewed until the server has confirmed"
        receiver.until(lambda: not receiver.channel.replies)
        assert tag not in qos.held_tags()
        assert books.hlen("unacked") == 1


def test_messages_are_asked_for_behind_acknowledgements_without_a_wait(
    url: str, books: Any
) -> None:
    with receiving(url, "a", prefetch=10) as receiver:
        two_taken(receiver, url)
        for message in receiver.messages:
            message.ack()
        receiver.channel.hints.look_everywhere()
        receiver.until_asked()
        assert len(receiver.channel.replies) == 2, (
            "one reply is that of the acknowledgements, the other has messages"
        )
        send(url, "a", 3)
        receiver.until(lambda: len(receiver.messages) == 3)
        assert books.hlen("unacked") == 1


def test_acknowledgements_whose_reply_is_lost_are_sent_again(url: str, books: Any) -> None:
    with receiving(url, "a", prefetch=10) as receiver:
        two_taken(receiver, url)
        tag = receiver.messages[0].delivery_tag
        receiver.messages[0].ack()
        receiver.channel.qos.flush_acks(beside=True)
        books.hset("unacked", tag, "it was lost with its connection")
        receiver.channel.client.connection.disconnect()
        assert not receiver.channel.replies
        assert tag in receiver.channel.qos.held_tags()
        receiver.channel.qos.flush_acks(beside=True)
        assert books.hlen("unacked") == 1


@pytest.mark.parametrize("chore", ["recover_soon", "maybe_restore_messages"])
def test_the_hub_does_not_wait_for_checks_of_other_workers_leases(
    url: str, monkeypatch: pytest.MonkeyPatch, chore: str
) -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    with receiving(url, "a", prefetch=10) as receiver:
        two_taken(receiver, url)

        def look(*_: Any, **__: Any) -> None:
            begun.set()
            go_on.wait(20)
            ended.set()

        monkeypatch.setattr(receiver.channel.qos, "recover", look)
        getattr(receiver.connection.transport.cycle, chore)()
        assert begun.wait(20)
        send(url, "a", 3)
        receiver.until(lambda: len(receiver.messages) == 3)
        assert not ended.is_set()
        go_on.set()
        eventually(ended.is_set)
