"""A server that is far away: what need not be waited for does not hold up the consumer."""

import threading
from typing import Any

import pytest

from tests.integration.aio.transport_harness import Tube, send, tube
from tests.processes import eventually


def two_taken(one: Tube, url: str) -> None:
    one.with_hub()
    send(url, "a", 1, 2)
    one.until(lambda: len(one.got) == 2 and one.channel.hints.all_empty)
    one.channel.replies.is_near = False


def test_acknowledgements_are_not_waited_for_and_kept_until_they_are_confirmed(
    url: str, books: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tube(url, "a", prefetch=10) as one:
        two_taken(one, url)
        qos, tag = one.channel.qos, one.got[0].delivery_tag
        with monkeypatch.context() as patched:
            patched.setattr(one.channel, "conn_or_acquire", None)
            one.got[0].ack()
            qos.flush_acks(beside=True)
        assert len(one.channel.replies) == 1, "nobody has read it"
        assert tag in qos.held_tags(), "its lease is renewed until the server has confirmed"
        one.until(lambda: not one.channel.replies)
        assert tag not in qos.held_tags()
        assert books.hlen("unacked") == 1


def test_messages_are_asked_for_behind_acknowledgements_without_a_wait(
    url: str, books: Any
) -> None:
    with tube(url, "a", prefetch=10) as one:
        two_taken(one, url)
        for message in one.got:
            message.ack()
        one.channel.hints.look_everywhere()
        one.until_asked()
        assert len(one.channel.replies) == 2, "of the acknowledgements, and with messages"
        send(url, "a", 3)
        one.until(lambda: len(one.got) == 3)
        assert books.hlen("unacked") == 1


def test_acknowledgements_whose_reply_is_lost_are_sent_again(url: str, books: Any) -> None:
    with tube(url, "a", prefetch=10) as one:
        two_taken(one, url)
        tag = one.got[0].delivery_tag
        one.got[0].ack()
        one.channel.qos.flush_acks(beside=True)
        books.hset("unacked", tag, "it was lost with its connection")
        one.channel.client.connection.disconnect()
        assert not one.channel.replies
        assert tag in one.channel.qos.held_tags()
        one.channel.qos.flush_acks(beside=True)
        assert books.hlen("unacked") == 1


@pytest.mark.parametrize("chore", ["recover_soon", "maybe_restore_messages"])
def test_the_hub_does_not_wait_for_looks_at_what_others_hold(
    url: str, monkeypatch: pytest.MonkeyPatch, chore: str
) -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    with tube(url, "a", prefetch=10) as one:
        two_taken(one, url)

        def look(*_: Any, **__: Any) -> None:
            begun.set()
            go_on.wait(20)
            ended.set()

        monkeypatch.setattr(one.channel.qos, "recover", look)
        getattr(one.connection.transport.cycle, chore)()
        assert begun.wait(20)
        send(url, "a", 3)
        one.until(lambda: len(one.got) == 3)
        assert not ended.is_set()
        go_on.set()
        eventually(ended.is_set)
