"""A worker's events are published in a thread, so that no job waits for the broker."""

import threading
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

from celery import Celery
from celery.events.dispatcher import EventDispatcher

from worker.hooks.events import EventSendingConsumer, EventThread


class Producer:
    """Publishes when it may."""

    def __init__(self) -> None:
        self.may_publish = threading.Event()
        self.published: list[Any] = []

    def publish(self, event: Any, *, routing_key: str, retry: bool, **_: Any) -> None:
        self.may_publish.wait(20)
        assert not retry
        self.published.append((routing_key, event))


def dispatcher(producer: Producer) -> Any:
    made = EventDispatcher(
        app=Celery("t", broker="memory://", set_as_current=False),
        enabled=False,
        buffer_group=["task"],
    )
    made.enabled, made.producer = True, producer
    return made


def test_events_are_sent_while_the_broker_does_not_answer_and_go_out_in_their_order() -> None:
    producer = Producer()
    sending = dispatcher(producer)
    thread = EventThread(sending)
    sending.send("worker-heartbeat", retry=True)
    sending.send("task-received", uuid="1")
    sending.flush()
    sending.send("task-received", uuid="2")
    sending.flush()
    assert thread.is_busy
    assert not producer.published
    producer.may_publish.set()
    sending.send("worker-offline")
    assert not thread.is_busy, "the last one waits until all are published"
    assert [key for key, _ in producer.published] == [
        "worker.heartbeat", "task.multi", "task.multi", "worker.offline",
    ]  # fmt: skip
    assert [[one["uuid"] for one in events] for _, events in producer.published[1:3]] == [
        ["1"],
        ["2"],
    ]
    thread.end()
    sending.send("worker-heartbeat")
    assert len(producer.published) == 4


def test_a_heartbeat_that_could_not_be_published_goes_with_later_events() -> None:
    failing = True

    class Failing(Producer):
        def publish(self, event: Any, **options: Any) -> None:
            if failing:
                raise ConnectionError
            super().publish(event, **options)

    producer = Failing()
    producer.may_publish.set()
    sending = dispatcher(producer)
    thread = EventThread(sending)
    sending.send("worker-heartbeat")
    assert isinstance(thread._latest, Future)
    thread._latest.result(20)
    failing = False
    sending.flush()
    thread._latest.result(20)
    assert [key for key, _ in producer.published] == ["worker.heartbeat"]
    thread.end()


def test_a_worker_that_ends_publishes_the_events_of_jobs_that_outlived_its_loop() -> None:
    """A job that goes back to its queue then is followed by nothing that would wait for it."""
    producer, ended = Producer(), list[int]()
    consumer = EventSendingConsumer.__new__(EventSendingConsumer)
    consumer.event_dispatcher = dispatcher(producer)
    consumer._events = EventThread(consumer.event_dispatcher)
    consumer.blueprint = SimpleNamespace(shutdown=lambda _: ended.append(len(producer.published)))
    consumer.hub, consumer._pending_operations = None, []
    consumer.event_dispatcher.send("task-retried", uuid="1")
    threading.Timer(0.1, producer.may_publish.set).start()
    consumer.shutdown()
    assert ended == [1]
