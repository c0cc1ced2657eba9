"""A worker's events are published in a thread, so that no job waits for the broker."""

import threading
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.events.dispatcher import EventDispatcher

from tests.unit.unstarted_consumer import Broker
from tests.unit.unstarted_consumer import consumer as unstarted
from worker.hooks import events as events_module
from worker.hooks.events import EventSendingConsumer, EventThread


class Producer:
    """Publishes when the test allows it."""

    def __init__(self) -> None:
        self.has_begun, self.may_publish = threading.Event(), threading.Event()
        self.published: list[Any] = []

    def publish(self, event: Any, *, routing_key: str, retry: bool, **_: Any) -> None:
        self.has_begun.set()
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
    assert not thread.is_busy, "the last event waits until all are published"
    assert [key for key, _ in producer.published] == [
        "worker.heartbeat", "task.multi", "task.multi", "worker.offline",
    ]  # fmt: skip
    assert [[event["uuid"] for event in events] for _, events in producer.published[1:3]] == [
        ["1"],
        ["2"],
    ]
    thread.end()
    sending.send("worker-heartbeat")
    thread.drain()
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
    """No later event follows, so the shutdown waits until the event of such a job is published."""
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


def test_each_connection_has_a_thread_of_its_own_if_several_may_use_it() -> None:
    consumer = unstarted(Broker(), None)
    consumer.connection = SimpleNamespace(transport=SimpleNamespace(notes_acks=True))
    consumer.create_task_handler()
    assert consumer._events is None, "the worker sends no events"
    lost = Producer()
    consumer.event_dispatcher = of_lost = dispatcher(lost)
    consumer.create_task_handler()
    before: Any = consumer._events
    of_lost.send("worker-heartbeat")
    assert lost.has_begun.wait(20)
    of_lost.send("worker-heartbeat")

    producer = Producer()
    producer.may_publish.set()
    consumer.event_dispatcher = dispatcher(producer)
    consumer.create_task_handler()
    assert before._latest.cancelled(), "the thread of the lost connection starts no further publish"
    of_lost.send("worker-heartbeat")
    assert before._latest.done()
    lost.may_publish.set()
    consumer.event_dispatcher.send("worker-heartbeat")
    assert isinstance(consumer._events, EventThread)
    consumer._events.drain()
    assert [key for key, _ in producer.published] == ["worker.heartbeat"]
    for connection in (SimpleNamespace(transport=object()), None):  # kombu's connection, and none
        consumer.connection = connection
        consumer.create_task_handler()
        assert consumer._events is None
    del consumer.connection
    consumer.create_task_handler()
    assert consumer._events is None


def test_the_events_of_jobs_wait_a_moment_for_others_and_for_those_that_are_on_their_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 1_000.0
    monkeypatch.setattr(events_module.time, "monotonic", lambda: now_s)
    later: list[Any] = []
    flushed: list[float] = []
    consumer = unstarted(Broker(), None)
    consumer.event_dispatcher = SimpleNamespace(flush=lambda: flushed.append(now_s))
    consumer.hub = None
    consumer.on_send_event_buffered()  # a loop without a hub
    consumer.hub = SimpleNamespace(call_later=lambda *args: later.append(args))
    consumer.on_send_event_buffered()
    now_s += 0.1
    consumer.on_send_event_buffered()
    assert consumer.event_dispatcher.buffer_limit == 1_000
    [(pause_s, flush)] = later
    assert (pause_s, flushed) == (0.2, []), "two events, one publish"

    consumer._events = SimpleNamespace(is_busy=True)
    now_s += 0.1
    flush()
    assert (flushed, later[1:]) == ([], [(0.2, flush)]), "earlier events are being published"
    now_s += 0.1
    consumer.on_send_event_buffered()
    assert len(later) == 2, "one flush is planned already"
    consumer._events.is_busy = False
    now_s += 0.1
    flush()
    assert (flushed, len(later)) == ([now_s], 2)
    consumer.on_send_event_buffered()
    assert len(later) == 3, "the next event is published a moment later"
    consumer._events = None
    now_s += 0.2
    flush()
    assert len(flushed) == 2
