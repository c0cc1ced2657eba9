"""Waiting messages of a queue are read without being taken."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from celery import Celery
from kombu.transport.memory import Transport as MemoryTransport

from sandbox.redis import EmbeddedRedis
from worker.aio.transport.peeking import QueuePeeker


@pytest.fixture
def app(redis_server: EmbeddedRedis) -> Iterator[Celery]:
    with Celery("peeked", broker=redis_server.url, set_as_current=False) as made:
        yield made


@pytest.fixture
def channel(app: Celery) -> Iterator[Any]:
    with redis.Redis.from_url(app.conf.broker_url) as client:
        client.delete("ai", "ai\x06\x166")
    with app.connection_for_write() as connection, connection.channel() as opened:
        yield opened


def send(app: Celery, *numbers: int, prompt: str = "", **options: Any) -> None:
    for number in numbers:
        app.send_task(
            "tasks.ai.complete", kwargs={"n": number, "prompt": prompt}, queue="ai", **options
        )


def seen(peeker: QueuePeeker, channel: Any) -> set[int]:
    return {kwargs["n"] for _, _, kwargs in peeker.peek(channel, "ai") or []}


def test_each_message_is_returned_with_its_priority_its_task_and_its_arguments(
    app: Celery, channel: Any
) -> None:
    send(app, 1)
    send(app, 2, priority=7)
    messages = QueuePeeker().peek(channel, "ai")
    assert messages is not None
    once = {(priority, task, kwargs["n"]) for priority, task, kwargs in messages}
    assert once == {(0, "tasks.ai.complete", 1), (6, "tasks.ai.complete", 2)}
    assert channel._size("ai") == 2, "the messages stay in the queue"


def test_the_newest_are_always_seen_and_all_others_one_part_after_the_other(
    app: Celery, channel: Any
) -> None:
    send(app, *range(180))
    peeker = QueuePeeker()
    newest = set(range(130, 180))
    assert seen(peeker, channel) == set(range(50)) | newest
    assert seen(peeker, channel) == set(range(50, 100)) | newest
    send(app, 180)
    assert 180 in seen(peeker, channel)
    assert seen(peeker, channel) >= set(range(150, 181))
    assert seen(peeker, channel) >= set(range(50)), "afterwards the oldest messages are read again"


def test_of_large_messages_fewer_are_read(app: Celery, channel: Any) -> None:
    send(app, *range(20), prompt="x" * 50_000)
    assert len(seen(QueuePeeker(), channel)) < 6


def test_entries_that_are_not_celery_tasks_in_json_are_left_out(app: Celery, channel: Any) -> None:
    with redis.Redis.from_url(app.conf.broker_url) as client:
        client.lpush(
            "ai", "{", "[]", '"x"', '{"body": "e30=", "properties": {"body_encoding": "base64"}}'
        )
    app.send_task("odd", kwargs={"n": 1}, queue="ai", serializer="pickle")
    send(app, 2)
    assert seen(QueuePeeker(), channel) == {2}


def test_a_transport_that_keeps_its_messages_elsewhere_is_not_looked_into() -> None:
    with (
        Celery("elsewhere", broker="memory://", set_as_current=False) as app,
        app.connection_for_write() as connection,
    ):
        assert isinstance(connection.transport, MemoryTransport)
        assert QueuePeeker().peek(connection.default_channel, "ai") is None
