"""The transport sets entries aside that are not messages."""

import json
from typing import Any

import pytest
import redis

from tests.integration.aio.transport_harness import (
    receiving,
    send,
)


def test_entries_that_are_not_messages_are_set_aside_and_logged(
    url: str, books: Any, caplog: pytest.LogCaptureFixture
) -> None:
    send(url, "a", "good")
    good = books.rpop("a")
    tag = json.loads(good)["properties"]["delivery_tag"]
    foreign = [
        b"{",  # not JSON
        b"[]",  # JSON of another kind
        b'{"properties": {"delivery_info": {}}}',  # without a tag
        good.replace(tag, "other")
        .encode()
        .replace(b"{", b'{"x": "\xff", ', 1),  # JSON for the server, but not for Python
    ]
    with redis.Redis.from_url(url) as raw, receiving(url, "a") as receiver:
        receiver.with_hub()
        raw.rpush("a", good, *foreign)
        receiver.until(lambda: receiver.bodies == ["good"])
        assert sorted(raw.lrange("unacked.unreadable", 0, -1)) == sorted(foreign)
        assert raw.hlen("unacked") == 1
        receiver.turn()
    assert "moved 3 entries of a queue that are not messages" in caplog.text
    assert "moved an entry of a that is not a message" in caplog.text
    assert "delivery_info" not in caplog.text


@pytest.mark.parametrize("reader", ["the server", "this process"])
def test_of_unreadable_entries_the_latest_10_000_are_kept_and_8_kib_of_each(
    url: str, books: Any, reader: str
) -> None:
    send(url, "a", "x" * 9_000)
    foreign = (
        books.rpop("a")
        .encode()
        .replace(b"{", b"[" if reader == "the server" else b'{"x": "\xff", ', 1)
    )
    with redis.Redis.from_url(url) as raw, receiving(url, "a") as receiver:
        raw.rpush("unacked.unreadable", *(["older"] * 9_999), "oldest")
        raw.lpush("a", foreign)
        receiver.until(lambda: raw.lindex("unacked.unreadable", 0) == foreign[:8192])
        assert raw.llen("unacked.unreadable") == 10_000
        assert raw.lindex("unacked.unreadable", -1) == b"older"
        assert raw.hlen("unacked") == raw.llen("a") == 0


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\\ud800", "\\\ud800", "😀"])
def test_a_message_with_a_lone_surrogate_is_not_set_aside(url: str, books: Any, text: str) -> None:
    send(url, "a", "whole")
    message = json.loads(books.rpop("a"))
    message["headers"]["kwargsrepr"] = text
    books.rpush("a", json.dumps(message))
    with receiving(url, "a") as receiver:
        receiver.until(lambda: receiver.bodies == ["whole"])
        [entry] = books.hvals("unacked")
        assert json.loads(entry)[0]["headers"]["kwargsrepr"] == text, (
            "a redelivered message would be exactly the same"
        )
        receiver.messages[0].ack()
        receiver.channel.flush_acks()
    assert books.hlen("unacked") == books.llen("unacked.unreadable") == 0
