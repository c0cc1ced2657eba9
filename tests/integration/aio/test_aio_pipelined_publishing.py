"""Messages that jobs send in pipelines.

They are the messages that Celery would have sent, in the same places.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from celery import Celery, signals

from tests.integration.aio.transport_harness import OURS, STOCK
from worker.aio.pipelined_publishing import publish, publisher_of


@pytest.fixture
def celery_app(url: str, request: pytest.FixtureRequest) -> Iterator[Celery]:
    app = Celery("publishing", broker=url, set_as_current=False)
    app.conf.broker_transport = getattr(request, "param", OURS)
    app.conf.broker_transport_options = {"delayed_queues": ["late"]}

    @app.task(name="task", shared=False)
    def task(*_: Any, **__: Any) -> None:
        """A task of which only the messages matter."""

    yield app
    app.close()


def run(app: Celery, coroutine_function: Callable[[], Awaitable[Any]]) -> Any:
    async def and_close() -> Any:
        try:
            return await coroutine_function()
        finally:
            if (publisher := await publisher_of(app)) is not None:
                await publisher.pipelining.close()

    return asyncio.run(and_close())


def signature(app: Celery, **options: Any) -> Any:
    options = {"task_id": "job-1", "queue": "q", "headers": {"x": {"y": 1}}, "retries": 3} | options
    return app.tasks["task"].signature(("ä",), {"n": 1.5}, options)


def messages(books: Any) -> dict[str, Any]:
    """Return all waiting messages by their keys, without the parts that differ each time."""
    by_key = {}
    for key in sorted(books.keys("*")):
        kind = books.type(key)
        texts = (
            books.lrange(key, 0, -1)
            if kind == "list"
            else books.hvals(key)
            if kind == "hash"
            else []
        )
        for text in texts:
            message = json.loads(text)
            assert message["properties"].pop("delivery_tag")
            by_key[key] = message
        if kind == "zset":
            by_key[key] = [
                round(score / 1e6) for _, score in books.zrange(key, 0, -1, withscores=True)
            ]
    return by_key


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"priority": 9, "reply_to": "me", "expires": "2037-01-01T00:00:00+00:00", "link": None},
        {"countdown": 3600, "queue": "late", "priority": 4},
        {"countdown": 0, "queue": "late"},
        {"eta": "2037-01-01T00:00:00+00:00"},
        {"link": {"task": "task", "args": (), "kwargs": {}, "options": {}}},
    ],
)
def test_a_message_is_the_one_that_celery_sends(
    celery_app: Celery, books: Any, options: dict[str, Any]
) -> None:
    signature(celery_app, **options).apply_async()
    stock = messages(books)
    books.flushdb()
    run(celery_app, lambda: publish(signature(celery_app, **options), celery_app))
    ours = messages(books)
    for key, message in ours.items():
        if isinstance(message, list):
            assert message == pytest.approx(stock[key], abs=2)
            stock[key] = message
        elif message["properties"].get("expiration"):  # counted from the time of sending
            stock[key]["properties"]["expiration"] = message["properties"]["expiration"]
    assert ours == {key: message for key, message in stock.items() if key in ours}
    assert {key for key in stock if not key.startswith("_kombu")} == set(ours)


@pytest.mark.parametrize(
    ("celery_app", "options"),
    [
        (STOCK, {}),  # another transport
        (OURS, {}),  # an event reports each message
        (OURS, {"queue": None, "exchange": "q", "routing_key": "q"}),  # by an exchange
        (OURS, {"compression": "gzip"}),
    ],
    indirect=["celery_app"],
)
def test_a_message_with_special_options_is_published_by_celery(
    celery_app: Celery, books: Any, options: dict[str, Any]
) -> None:
    bound = celery_app.amqp.queues["q"]
    with celery_app.connection_for_write() as connection:
        bound(connection.default_channel).declare()
    celery_app.conf.task_send_sent_event = not options
    run(celery_app, lambda: publish(signature(celery_app, **options), celery_app))
    assert books.llen("q") == 1


def test_many_messages_of_a_moment_are_one_round_trip_and_each_sends_celerys_signals(
    celery_app: Celery, books: Any
) -> None:
    job_ids: list[str] = []

    def receiver(headers: Any = None, **_: Any) -> None:
        job_ids.append(headers["id"])

    async def all_at_once() -> None:
        await publisher_of(celery_app)
        jobs = [signature(celery_app, task_id=f"job-{number}") for number in range(100)]
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(publish(job, celery_app))

    signals.before_task_publish.connect(receiver)
    signals.after_task_publish.connect(receiver)
    try:
        run(celery_app, all_at_once)
    finally:
        signals.before_task_publish.disconnect(receiver)
        signals.after_task_publish.disconnect(receiver)
    assert books.llen("q") == 100
    assert sorted(job_ids) == sorted([f"job-{number}" for number in range(100)] * 2)
