"""The transport with a real Redis.

The tests check what it takes and what it leaves, and that no message is lost on the way.
"""

import json
import time
from typing import Any

import pytest
from kombu import Connection

from tests.integration.aio.transport_harness import (
    OURS,
    STOCK,
    queue_of,
    receiving,
    send,
    waiting,
)


@pytest.mark.parametrize("hub", [True, False], ids=["with a hub", "without"])
def test_messages_of_a_stock_producer_arrive_in_order_and_leave_nothing(
    url: str, books: Any, *, hub: bool
) -> None:
    with receiving(url, "a") as receiver:
        if hub:
            receiver.with_hub()
        receiver.on_message = lambda message: message.ack()
        send(url, "a", *range(25))
        receiver.until(lambda: len(receiver.bodies) == 25)
        assert receiver.bodies == list(range(25))
        receiver.turn()
        receiver.channel.flush_acks()
        assert books.hlen("unacked") == books.zcard("unacked_index") == books.llen("a") == 0


def test_a_message_arrives_at_once_in_any_of_several_queues_and_priorities(url: str) -> None:
    with receiving(url, "a", "b", "c", prefetch=100) as receiver:
        receiver.with_hub()
        receiver.until(lambda: receiver.channel.hints.all_empty)
        for queue, priority in [("a", 0), ("b", 0), ("c", 9), ("a", 3), ("c", 0)]:
            before = len(receiver.messages)
            looked = receiver.channel.hints.look_at_s
            send(url, queue, queue, priority=priority)
            receiver.until(lambda before=before: len(receiver.messages) > before)
            assert receiver.channel.sweep_s == 10.0
            assert looked  # by a notification or by the sweep; the next test distinguishes them
        assert receiver.bodies == ["a", "b", "c", "a", "c"]


def test_a_hint_wakes_a_waiting_channel_long_before_it_would_look_by_itself(url: str) -> None:
    with receiving(url, "a", polling_interval=60) as receiver:
        receiver.with_hub()
        receiver.until(lambda: receiver.channel.hints.all_empty)
        assert receiver.channel.sweep_s == 60
        send(url, "a", 1)
        receiver.until(lambda: receiver.messages, within_s=20)


@pytest.mark.parametrize("strategy", ["round_robin", "sorted", "priority"])
def test_queues_and_priorities_are_served_in_the_order_of_the_stock_transport(
    url: str, books: Any, strategy: str
) -> None:
    def fill() -> None:
        books.flushdb()
        for queue, priority, count in [
            ("b", 0, 4),
            ("a", 0, 2),
            ("c", 0, 3),
            ("a", 3, 2),
            ("b", 9, 2),
            ("c", 3, 1),
        ]:
            send(
                url,
                queue,
                *(f"{queue}{priority}-{number}" for number in range(count)),
                priority=priority,
            )

    def drain(transport: str, prefetch: int) -> list[str]:
        fill()
        with receiving(
            url,
            "b",
            "a",
            "c",
            transport=transport,
            prefetch=prefetch,
            queue_order_strategy=strategy,
        ) as receiver:
            receiver.on_message = lambda message: message.ack()
            receiver.until(lambda: len(receiver.bodies) == 14)
            return receiver.bodies

    stock = drain(STOCK, 100)
    for prefetch in (100, 5, 1):
        assert drain(OURS, prefetch) == stock


def test_no_more_is_taken_than_the_window_allows(url: str, books: Any) -> None:
    with receiving(url, "a", prefetch=3) as receiver:
        receiver.with_hub()
        send(url, "a", *range(10))
        receiver.until(lambda: len(receiver.messages) == 3)
        for _ in range(3):
            receiver.channel.connection.cycle.nudge(0.01)
            receiver.turn()
        assert books.hlen("unacked") == len(receiver.messages) == 3
        receiver.messages[0].ack()
        receiver.until(lambda: len(receiver.messages) == 4)
        receiver.turn()
        assert (books.hlen("unacked"), books.llen("a")) == (3, 6)


def test_a_rule_that_says_only_yes_or_no_gets_one_message_at_a_time(url: str, books: Any) -> None:
    with receiving(url, "a", prefetch=0) as receiver:
        receiver.channel.qos.can_consume = lambda: (
            len(receiver.messages) < 2
        )  # as Celery's worker_disable_prefetch does
        send(url, "a", *range(5))
        receiver.until(lambda: len(receiver.messages) == 2)
        receiver.turn()
        assert (books.hlen("unacked"), books.llen("a")) == (2, 3)


def test_a_paused_queue_is_not_fetched_from_and_is_served_again_when_it_is_resumed(
    url: str, books: Any
) -> None:
    with receiving(url, "a", "b", prefetch=100) as receiver:
        receiver.with_hub()
        send(url, "a", *range(20))
        receiver.until_asked()
        receiver.consumer.cancel_by_queue("a")  # while a request for its messages is open
        send(url, "b", "still served")
        receiver.until(lambda: receiver.bodies == ["still served"])
        send(url, "a", *range(20, 30))
        send(url, "b", "again")
        receiver.until(lambda: len(receiver.bodies) == 2)
        assert waiting(books, "a") == list(range(30))
        assert books.hlen("unacked") == 2
        receiver.consumer.add_queue(queue_of("a"))
        receiver.consumer.consume()
        receiver.until(lambda: len(receiver.bodies) == 32)
        assert receiver.bodies[2:] == list(range(30))
        assert books.llen("a") == 0


def test_messages_that_no_longer_fit_go_back(url: str, books: Any) -> None:
    send(url, "a", *range(5))
    with receiving(url, "a", prefetch=5) as receiver:
        receiver.with_hub()
        receiver.until_asked()
        receiver.channel.basic_qos(0, 2, False)
        receiver.until(lambda: len(receiver.messages) == 2)
        assert waiting(books, "a") == [2, 3, 4]
        assert books.hlen("unacked") == 2


@pytest.mark.parametrize("transport", [OURS, STOCK])
def test_either_transport_gives_back_what_the_other_took_too_long_ago(
    url: str, books: Any, transport: str
) -> None:
    first = OURS if transport == STOCK else STOCK
    send(url, "a", "late", priority=6)
    with receiving(url, "a", transport=first) as receiver:
        receiver.until(lambda: receiver.messages)
        (entry,) = books.hvals("unacked")
        raw, exchange, routing_key = json.loads(entry)
        assert receiver.messages[0].delivery_tag.startswith(raw["properties"]["delivery_tag"])
        assert (exchange, routing_key) == ("a", "a")
        assert (
            abs(books.zscore("unacked_index", receiver.messages[0].delivery_tag) - time.time()) < 60
        )
        with receiving(url, transport=transport, visibility_timeout=-60) as other:
            other.channel.qos.restore_visible()
        assert books.hlen("unacked") == books.zcard("unacked_index") == 0
        assert waiting(books, "a\x06\x166") == ["late"]
    # The late one is closed now, and must not have returned the message a second time.
    assert waiting(books, "a\x06\x166") == ["late"]


def test_a_key_prefix_stands_before_every_key(url: str, books: Any) -> None:
    send(url, "a", 1, 2, global_keyprefix="p:")
    with receiving(url, "a", global_keyprefix="p:") as receiver:
        receiver.with_hub()
        receiver.until(lambda: len(receiver.messages) == 2)
        assert {"p:unacked", "p:unacked_index"} < set(books.keys())
        receiver.messages[0].ack()
        receiver.until(lambda: books.hlen("p:unacked") == 1)
    assert books.llen("p:a") == 1
    assert {"unacked", "unacked_index", "a"}.isdisjoint(books.keys())


def test_a_consumer_without_acknowledgements_is_served_by_the_stock_path(
    url: str, books: Any
) -> None:
    with receiving(url, "a") as receiver:
        send(url, "a", 1)
        receiver.until_asked()
        receiver.consumer.add_queue(queue_of("replies"))
        receiver.channel.basic_consume("replies", True, receiver.bodies.append, "tag")
        assert not receiver.channel.takes
        send(url, "replies", "reply")
        receiver.until(lambda: len(receiver.bodies) == 2)
        assert books.hlen("unacked") == 1
        assert receiver.channel.connection._callbacks
    assert waiting(books, "a") == [1]


def test_a_channel_without_acknowledgements_is_stock(url: str, books: Any) -> None:
    with receiving(url, "a", ack_emulation=False) as receiver:
        send(url, "a", 1)
        receiver.until(lambda: receiver.messages)
        receiver.messages[0].ack()
        assert not books.exists("unacked")


def test_draining_by_hand_takes_one_message_a_call_and_leaves_the_others_in_the_queue(
    url: str, books: Any
) -> None:
    with Connection(url, transport=OURS) as first, Connection(url, transport=OURS) as second:
        queue = first.SimpleQueue("a")
        for number in range(10):
            queue.put(number)
        message = queue.get(timeout=60)
        assert (message.payload, books.llen("a"), books.hlen("unacked")) == (0, 9, 1)
        assert second.SimpleQueue("a").get(timeout=60).payload == 1
    with receiving(url, "a", prefetch=0) as several:  # no window
        several.until(lambda: several.messages)
        assert (len(several.messages), books.llen("a")) == (1, 9)
