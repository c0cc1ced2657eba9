"""Delayed queues of the transport.

A message waits in the broker for its instant, and is delivered then.
"""

import asyncio
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from kombu import Connection, Producer

from tests.integration.aio.transport_harness import (
    OURS,
    STOCK,
    calls,
    plain_body,
    queue_of,
    receiving,
    send,
)
from worker.aio.transport import delayed
from worker.aio.transport.scripts import TAKE
from worker.jobs.deferred import wake_deferred, wake_jobs

OPTIONS: dict[str, Any] = {"delayed_queues": ["late"]}
LONG_S = 3600


def delay(
    url: str,
    countdown_s: float,
    *bodies: Any,
    transport: str = OURS,
    job: str | None = None,
    **options: Any,
) -> None:
    """Publish as Celery does if a countdown is given."""
    with Connection(url, transport=transport, transport_options=OPTIONS) as connection:
        producer = Producer(connection)
        queue_of("late")(
            connection.default_channel
        ).declare()  # the first time, this takes a moment
        for body in bodies:
            eta = (datetime.now(UTC) + timedelta(seconds=countdown_s)).isoformat()
            headers, options = {"eta": eta, "id": job, "x": 1}, {"serializer": "json"} | options
            producer.publish(body, routing_key="late", headers=headers, **options)


def run_with_client(url: str, call: Callable[..., Any], *args: Any) -> Any:
    async def with_client() -> Any:
        async with redis.asyncio.Redis.from_url(url) as client:
            return await call(client, *args)

    return asyncio.run(with_client())


def now_us(books: Any) -> int:
    seconds, us = books.time()
    return int(seconds * 1_000_000 + us)


@pytest.mark.parametrize("hub", [True, False], ids=["with a hub", "without"])
def test_a_message_comes_when_it_is_due_and_not_before(url: str, books: Any, *, hub: bool) -> None:
    came: list[tuple[str, int]] = []
    with receiving(url, "late", polling_interval=60, **OPTIONS) as receiver:
        if hub:
            receiver.with_hub()
        receiver.until(lambda: receiver.channel.hints.all_empty)
        receiver.on_message = lambda message: (
            came.append((message.decode(), now_us(books))),
            message.ack(),
        )
        delay(url, 1.0, "one")
        delay(url, 0.8, "other")
        due = {
            json.loads(plain_body(books.hget("late.due.texts", tag))): at
            for tag, at in books.zrange("late.due", 0, -1, withscores=True)
        }
        assert (len(due), books.llen("late")) == (2, 0)
        receiver.until(lambda: len(came) == 2, within_s=20)  # a sweep would be a minute later
        assert [body for body, _ in came] == sorted(due, key=lambda body: due[body])
        assert all(at >= due[body] for body, at in came)
        receiver.turn()
        receiver.channel.flush_acks()
    assert set(books.keys("*")) <= {"unacked.clock", "unacked.pulse", "late.due.leader",
        "_kombu.binding.late",
                                    "_kombu.binding_permanent.late"}  # fmt: skip


def test_the_leader_of_a_delayed_queue_may_miss_two_of_its_sweeps(url: str, books: Any) -> None:
    with receiving(url, "late", **OPTIONS) as receiver:
        receiver.until(lambda: receiver.channel.hints.all_empty and not receiver.channel._in_poll)
        receiver.channel.sweep_s = 60.0
        receiver.channel.hints.look_everywhere()
        books.delete("late.due.leader")
        receiver.until_asked()
        receiver.until(lambda: not receiver.channel._in_poll)
        assert 75_000 < books.pttl("late.due.leader") <= 150_000


def test_the_consumer_has_no_instant_to_wait_for_a_second_time(url: str) -> None:
    with receiving(url, "late", **OPTIONS) as receiver:
        delay(url, 0.01, 1)
        receiver.until(lambda: receiver.messages)
        assert (receiver.messages[0].headers["eta"], receiver.messages[0].headers["x"]) == (None, 1)


def test_due_messages_come_before_the_list_beside_and_urgent_ones_before_others(
    url: str, books: Any
) -> None:
    delay(url, LONG_S, "second")
    delay(url, LONG_S - 1, "first")
    delay(url, LONG_S - 2, "bulk", priority=9)
    send(url, "late", "in the list")
    send(url, "a", "elsewhere")
    assert books.zcard("late\x06\x169.due") == 1
    with receiving(url, "late", "a", prefetch=100, **OPTIONS) as receiver:
        receiver.until(lambda: len(receiver.messages) == 2)
        assert run_with_client(url, wake_deferred, "late") == 3
        send(url, "late", "later in the list")
        receiver.until(lambda: len(receiver.messages) == 6)
        late = [body for body in receiver.bodies[2:] if body != "elsewhere"]
        assert late in (
            ["first", "second", "later in the list", "bulk"],
            ["later in the list", "first", "second", "bulk"],
        )


@pytest.mark.parametrize("hub", [True, False], ids=["with a hub", "without"])
def test_due_messages_take_the_turns_of_the_queue_they_go_before_and_no_others(
    url: str, *, hub: bool
) -> None:
    delay(url, LONG_S, *(f"due {number}" for number in range(6)))
    run_with_client(url, wake_deferred, "late")
    for queue in ("a", "b"):
        send(url, queue, *(f"{queue}{number}" for number in range(6)))
    with receiving(url, "a", "late", "b", prefetch=100, delayed_queues={"late": "a"}) as receiver:
        if hub:
            receiver.with_hub()
        receiver.until(lambda: len(receiver.bodies) == 18)
        assert [body for body in receiver.bodies if body[0] in "da"] == [
            *(f"due {number}" for number in range(6)), *(f"a{number}" for number in range(6)),
        ]  # fmt: skip
        assert receiver.bodies.index("b2") < 9, "the queue has its turns"
        assert {message.delivery_info["routing_key"] for message in receiver.messages} == {
            "a",
            "b",
            "late",
        }


def test_messages_that_are_woken_keep_their_order_however_often(url: str) -> None:
    delay(url, LONG_S, *range(20))
    for _ in range(50):
        run_with_client(url, wake_deferred, "late")
    delay(url, LONG_S - 1, 20)
    run_with_client(url, wake_deferred, "late")
    with receiving(url, "late", prefetch=100, **OPTIONS) as receiver:
        receiver.until(lambda: receiver.bodies == list(range(21)))


def test_some_jobs_are_woken_and_a_second_message_of_a_job_takes_the_place_of_the_first(
    url: str, books: Any
) -> None:
    for body, job, countdown_s in [
        ("a", "a", 100),
        ("b", "b", 200),
        ("b again", "b", 300),
        ("c", "c", 50),
    ]:
        delay(url, countdown_s, body, job=job)
    assert books.zrange("late.due", 0, -1) == ["c", "a", "b"]
    assert run_with_client(url, wake_jobs, "late", ["b", "unknown"]) == 1
    with receiving(url, "late", prefetch=100, **OPTIONS) as receiver:
        receiver.until(lambda: receiver.messages)
        assert receiver.bodies == ["b again"]
        assert run_with_client(url, wake_deferred, "late") == 2
        receiver.until(lambda: receiver.bodies == ["b again", "c", "a"])


def test_a_wake_up_reaches_a_channel_that_waits_for_a_far_instant(url: str) -> None:
    with receiving(url, "late", polling_interval=60, **OPTIONS) as receiver:
        receiver.with_hub()
        delay(url, LONG_S, 1)
        receiver.until(lambda: receiver.channel.hints.all_empty)
        run_with_client(url, wake_deferred, "late")
        receiver.until(lambda: receiver.messages, within_s=20)


def test_one_of_many_channels_wakes_up_for_a_message_and_another_if_it_is_gone(
    url: str, books: Any
) -> None:
    with receiving(url, "late", polling_interval=60, **OPTIONS) as first:
        first.with_hub()
        first.until(lambda: first.channel.hints.all_empty)
        with receiving(url, "late", polling_interval=60, **OPTIONS) as second:
            second.with_hub()
            second.until(lambda: second.channel.hints.all_empty)
            before = calls(books, "evalsha")
            for _ in range(3):
                delay(url, 0.5, 1)
                second.turn()
            first.until(lambda: len(first.messages) == 3)
            for _ in range(3):
                second.channel.connection.cycle.nudge(0.01)
                second.turn()
            assert not second.messages
            # The first channel is notified of each new earliest instant and wakes up at each; the
            # second channel wakes up only for the first message.
            assert calls(books, "evalsha") - before <= 3 * 3 + 1
            first.close()
            books.delete("late.due.leader")  # it expires by itself
            second.channel.hints.all_empty = False  # as when a sweep is due
            second.until(lambda: second.channel.hints.all_empty)
            delay(url, 0.5, 2)
            second.until(lambda: 2 in second.bodies)


def test_a_channel_that_does_not_lead_looks_often_while_a_message_is_delayed(url: str) -> None:
    with receiving(url, "late", **OPTIONS) as first, receiving(url, "late", **OPTIONS) as second:
        for receiver in (first, second):
            receiver.with_hub()
            receiver.until(lambda receiver=receiver: receiver.channel.hints.all_empty)
        assert second.channel.sweep_s > 1
        delay(url, 600, 1)
        second.until(lambda: second.channel.sweep_s == 1)
        assert second.channel.hints.look_at_s <= time.monotonic() + 1, "the leader may have died"


def test_a_place_that_is_left_alone_keeps_its_due_messages_and_hides_no_others(
    url: str, books: Any
) -> None:
    with receiving(url, "late", prefetch=100, **OPTIONS) as receiver:
        receiver.with_hub()
        receiver.channel.take_urgent_only("late", 6)
        delay(url, LONG_S, "bulk", priority=9)
        run_with_client(url, wake_deferred, "late")
        delay(url, 0.5, "urgent")
        receiver.until(
            lambda: receiver.bodies == ["urgent"], within_s=4
        )  # without delayed messages, the next poll is later
        assert books.zcard("late\x06\x169.due") == 1
        receiver.channel.take_urgent_only("late", None)
        receiver.until(lambda: receiver.bodies == ["urgent", "bulk"])


def test_queues_are_counted_purged_and_deleted_with_what_is_delayed(url: str, books: Any) -> None:
    with receiving(url, **OPTIONS) as receiver:
        delay(url, LONG_S, 1, 2)
        delay(url, LONG_S, 3, priority=6)
        send(url, "late", 4)
        assert receiver.channel.queue_declare("late", passive=True).message_count == 4
        assert receiver.channel.queue_purge("late") == 4
        assert receiver.channel._size("late") == 0
        assert not books.keys("late*")
        delay(url, LONG_S, 1)
        bound = queue_of("late")(receiver.channel)
        bound.declare()
        bound.delete()
        assert not books.keys("late*")


def test_a_message_whose_consumer_ends_goes_to_the_list_and_comes_at_once(
    url: str, books: Any
) -> None:
    delay(url, 0.01, 1)
    with receiving(url, "late", **OPTIONS) as receiver:
        receiver.until(lambda: receiver.messages)
    assert (books.llen("late"), books.zcard("late.due"), books.hlen("unacked")) == (1, 0, 0)
    with receiving(url, "late", **OPTIONS) as receiver:
        receiver.until(lambda: receiver.messages)
        assert receiver.messages[0].headers["redelivered"]


def test_messages_with_an_instant_that_wait_in_the_list_are_handed_out_as_they_are(
    url: str,
) -> None:
    delay(url, LONG_S, "by the stock transport", transport=STOCK)
    delay(url, -1, "due already")
    with receiving(url, "late", **OPTIONS) as receiver:
        receiver.until(lambda: len(receiver.messages) == 2)
        assert receiver.bodies == ["by the stock transport", "due already"]
        assert [bool(message.headers["eta"]) for message in receiver.messages] == [True, False]


def test_a_clock_that_is_set_back_makes_no_countdown_longer(url: str, books: Any) -> None:
    ahead_us = now_us(books) + 600_000_000
    books.set(delayed.CLOCK_KEY, f"{ahead_us} 0")  # the former value
    delay(url, 0.5, 1)
    assert books.zscore("late.due", books.zrange("late.due", 0, 0)[0]) > ahead_us
    with receiving(url, "late", **OPTIONS) as receiver:
        receiver.until(lambda: receiver.messages)


def test_a_delayed_entry_that_is_not_a_message_is_set_aside_and_a_lost_text_is_skipped(
    url: str, books: Any
) -> None:
    with receiving(url, "late", **OPTIONS) as receiver:
        books.zadd("late.due", {"lost": 1, "odd": 2})
        books.hset("late.due.texts", "odd", "no message")
        delay(url, LONG_S, "good")
        run_with_client(url, wake_deferred, "late")
        receiver.until(lambda: receiver.bodies == ["good"])
        assert books.lrange("unacked.unreadable", 0, -1) == ["no message"]
        assert not books.exists("late.due", "late.due.texts", "late.due.next")


def test_delayed_messages_are_published_in_batches_and_behind_a_prefix(
    url: str, books: Any
) -> None:
    options = OPTIONS | {"global_keyprefix": "here:"}
    with Connection(url, transport=OURS, transport_options=options) as connection:
        producer = Producer(connection)
        eta = (datetime.now(UTC) + timedelta(seconds=0.5)).isoformat()
        with producer.batch():
            for body in range(3):
                producer.publish(body, routing_key="late", headers={"eta": eta}, serializer="json")
        assert producer.channel._size("late") == books.zcard("here:late.due") == 3
    with receiving(url, "late", **options) as receiver:
        receiver.until(lambda: sorted(receiver.bodies) == [0, 1, 2])


def test_the_taking_script_reads_no_sorted_set_before_a_message_is_due() -> None:
    """If it did, the server would notify every waiting worker of every delayed message."""
    before_any_is_due = TAKE.partition("tonumber(next_us) <= now_us then")[0]
    assert "GETEX" in before_any_is_due
    assert "ZRANGE" not in before_any_is_due


def test_if_nothing_was_delayed_others_are_notified_of_the_first_message_too(
    url: str, books: Any
) -> None:
    with receiving(url, "late", **OPTIONS) as first, receiving(url, "late", **OPTIONS) as second:
        for receiver in (first, second):
            receiver.with_hub()
            receiver.until(lambda receiver=receiver: receiver.channel.hints.all_empty)
        assert second.channel.sweep_s == 10
        delay(url, 0.5, 1)  # the first channel, which leads the queue, stands still
        # Without a notification, the second channel would poll only after ten seconds.
        second.until(lambda: second.bodies == [1], within_s=6)
