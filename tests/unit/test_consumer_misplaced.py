"""Jobs in the queue of another task are moved to their own queue."""

from typing import Any

import pytest
import redis
from kombu.message import Message

from tests.unit.unstarted_consumer import HEADERS, Broker, consumer, message
from worker.hooks.misplaced import right_queue


class Moving(Broker):
    """A channel that publishes, or fails to; it notes its calls in order."""

    no_ack_consumers = None

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error, self.done = error, list[Any]()

    def prepare_message(self, body: Any, **parts: Any) -> dict[str, Any]:
        return {"body": body, **parts}

    def basic_publish(self, message: dict[str, Any], *, exchange: str, routing_key: str) -> None:
        assert exchange == ""
        if self.error:
            raise self.error
        self.done.append((routing_key, message))

    def basic_ack(self, tag: str, **_: Any) -> None:
        self.done.append(tag)


def misplaced(broker: Broker, queue: str) -> Message:
    incoming = message(broker, HEADERS | {"task": "tasks.email.send"})
    incoming.headers["compression"] = (
        "gzip"  # kombu leaves it there after it has decompressed the body
    )
    incoming.delivery_info = {"exchange": "", "routing_key": queue}
    incoming.properties = {"priority": 9, "delivery_tag": "t1", "body_encoding": "base64"}
    return incoming


def test_a_job_in_the_queue_of_another_task_is_published_before_it_is_acknowledged() -> None:
    for queue in ("ai", "ai.deferred", "admin"):
        broker = Moving()
        consumer(broker, None).create_task_handler()(misplaced(broker, queue))
        (moved_to, moved), acknowledged = broker.done
        assert (moved_to, acknowledged) == ("email", "t1")
        assert moved["headers"] == HEADERS | {"task": "tasks.email.send"}  # no longer compressed
        assert moved["properties"] == {"priority": 9}
        assert moved["body"] == misplaced(broker, queue).body


def test_a_job_that_cannot_be_moved_now_stays_where_it_is() -> None:
    broker = Moving(redis.ConnectionError("gone"))
    with pytest.raises(redis.ConnectionError):
        consumer(broker, None).create_task_handler()(misplaced(broker, "ai"))
    assert (broker.done, broker.rejected) == ([], [])


@pytest.mark.parametrize("queue", ["email", "email.deferred", "vip", "celery"])
def test_a_job_in_its_own_queue_or_in_one_of_the_operators_stays(queue: str) -> None:
    assert right_queue(misplaced(Broker(), queue)) == ""
