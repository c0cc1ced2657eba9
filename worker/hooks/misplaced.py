"""Moves a job from the queue of another task to the queue of its own task.

A producer without our routes sends all steps of a chain to one queue. A worker of that queue might
have no key for the job, and the job would delay the other jobs of the queue.
"""

import logging
from collections.abc import Container
from typing import Any, Final

from config.celery import DEFERRED, QUEUES, queue_of
from worker.foreign_json import member

_logger = logging.getLogger(__name__)

_OF_ITS_DELIVERY: Final = ("delivery_info", "delivery_tag", "body_encoding")


def right_queue(message: Any) -> str:
    """Name the queue that a message's job belongs to; empty if the message need not be moved.

    A message from a queue that is not one of `QUEUES` is not moved, because somebody chose that
    queue on purpose, with `-Q`.
    """
    task = member(message.headers, "task")
    came_by = member(message.delivery_info, "routing_key")
    if not isinstance(task, str) or not isinstance(came_by, str):
        return ""
    queue, came_by = queue_of(task), came_by.removesuffix(DEFERRED)
    return queue if queue != came_by and came_by in QUEUES else ""


def move(message: Any, queue: str, errors: Container[type[Exception]]) -> None:
    """Publish a message unchanged to another queue, and then acknowledge it.

    A crash between the two steps leaves two messages of one job, never none.

    Args:
        message: kombu's message; its body is not read.
        queue: The queue of the job's task.
        errors: The errors of an acknowledgement while the broker cannot be reached.
    """
    channel = message.channel
    # kombu has decompressed the body.
    headers = {name: value for name, value in message.headers.items() if name != "compression"}
    properties = {
        name: value for name, value in message.properties.items() if name not in _OF_ITS_DELIVERY
    }
    channel.basic_publish(
        channel.prepare_message(
            message.body,
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            headers=headers,
            properties=properties,
        ),
        exchange="",
        routing_key=queue,
    )
    message.ack_log_error(_logger, errors)
    _logger.info("moved %s to its own queue, %s", headers.get("id"), queue)
