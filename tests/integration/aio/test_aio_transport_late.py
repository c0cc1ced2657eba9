"""Channels that come too late for a message poll before they take, and give way to others."""

import time
from typing import Any

import pytest

from tests.integration.aio.transport_harness import (
    calls,
    receiving,
    send,
)
from worker.aio.transport import look_backoff, requesting, taking
from worker.aio.transport.leases import LeaseKeeper

pytestmark = pytest.mark.usefixtures("only_taking")


def test_a_channel_that_was_too_late_looks_before_it_takes(
    url: str, books: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requesting, "_LOOKS_FIRST_S", 60.0)
    with receiving(url, "a") as fast, receiving(url, "a") as late:
        for receiver in (fast, late):
            receiver.with_hub()
            receiver.until(
                lambda receiver=receiver: (
                    receiver.channel.hints.all_empty and not receiver.channel._in_poll
                )
            )

        def spent_by_the_late_one(body: int) -> dict[str, int]:
            send(url, "a", body)
            fast.until(lambda: fast.bodies[-1:] == [body] and not fast.channel._in_poll)
            before = {name: calls(books, name) for name in ("evalsha", "exists", "lrange", "time")}

            def spent() -> dict[str, int]:
                return {name: calls(books, name) - count for name, count in before.items()}

            late.until(lambda: any(spent().values()) and not late.channel._in_poll)
            return spent()

        assert spent_by_the_late_one(1) == {"evalsha": 1, "exists": 0, "lrange": 1, "time": 0}
        assert spent_by_the_late_one(2) == {"evalsha": 0, "exists": 1, "lrange": 0, "time": 0}
        send(url, "a", 3)
        late.until(lambda: late.bodies == [3])
        assert not late.channel._looks_until_s, "this channel was the fastest this time"


def test_a_channel_that_was_too_late_leaves_the_next_messages_to_the_others_for_a_while(
    url: str, books: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look_backoff, "_FIRST_S", 60.0)
    monkeypatch.setattr(look_backoff, "_LONGEST_S", 60.0)
    with receiving(url, "a") as fast, receiving(url, "a") as late:
        for receiver in (fast, late):
            receiver.with_hub()
            receiver.until(
                lambda receiver=receiver: (
                    receiver.channel.hints.all_empty and not receiver.channel._in_poll
                )
            )

        def fast_takes(body: int) -> None:
            send(url, "a", body)
            fast.until(lambda: fast.bodies[-1:] == [body] and not fast.channel._in_poll)

        fast_takes(1)
        # It polls without success.
        late.until(lambda: late.channel._looks_until_s and not late.channel._in_poll)
        before = {name: calls(books, name) for name in ("evalsha", "exists")}
        for body in (2, 3):
            fast_takes(body)
            late.until(lambda: not late.channel.hints.all_empty)  # it knows of the message
            late.turn()
        spent = {name: calls(books, name) - count for name, count in before.items()}
        assert spent == {"evalsha": 2, "exists": 2}, "the commands of the fast channel"
        assert not late.channel.knows_of_messages
        send(url, "a", 4)
        late.channel.backoff.until_s = 0.0
        late.until(lambda: late.bodies == [4])
        assert not late.channel.backoff.begin(workers=2, now_s=0.0), (
            "this channel was the fastest this time"
        )


def test_a_look_whose_reply_is_lost_releases_no_message(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[str] = []
    monkeypatch.setattr(taking, "arrives_soon", lambda _: False)
    monkeypatch.setattr(LeaseKeeper, "release_unanswered", lambda _, tags: released.append(tags))
    with receiving(url, "a") as receiver:
        receiver.with_hub()
        send(url, "a", 1)
        receiver.until(lambda: receiver.bodies == [1] and not receiver.channel._in_poll)
        receiver.channel._looks_until_s = time.monotonic() + 60
        send(url, "a", 2)
        receiver.until(lambda: receiver.channel._is_looking and receiver.channel._in_poll)
        receiver.channel.client.connection.disconnect()
        receiver.channel._drain_reply()
        (tag,) = [message.delivery_tag for message in receiver.messages]
        assert [tag.endswith(suffix) for suffix in released] in ([], [False])


def test_if_many_workers_wait_each_gives_way_for_a_moment_and_then_looks(
    url: str, books: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look_backoff.random, "random", lambda: 1.0)
    with receiving(url, "a") as receiver:
        receiver.with_hub()
        receiver.until(lambda: receiver.channel.hints.all_empty and not receiver.channel._in_poll)
        assert (
            1 <= receiver.channel.qos.keeper.workers < 8
        )  # it looked for dead workers when it connected
        receiver.channel.qos.keeper.workers = 200  # 0.4 s
        before = calls(books, "evalsha")
        send(url, "a", 1, 2)
        receiver.until(lambda: not receiver.channel.hints.all_empty)
        receiver.turn()
        assert (receiver.messages, calls(books, "evalsha")) == ([], before)
        receiver.until(lambda: len(receiver.messages) == 2)
        assert calls(books, "evalsha") == before + 1  # one poll for both
