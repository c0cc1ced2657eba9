"""Reads the headers that RabbitMQ, and Celery's delays in RabbitMQ, write into a message."""

import re
from typing import Any, Final

from worker.foreign_json import as_object, as_text

MOST_RETURNS: Final = 16
"""A message that came back more often is not run again.

RabbitMQ counts deaths of workers, lost connections and rejections together. It does not report
which job killed a worker. From version 4 on, it drops a message itself after 20 returns.
"""
_RETURNS: Final = "x-delivery-count"
_DELAY_RE: Final = re.compile(r"(?:[01]\.){28}")
"""The delay in the routing key of a delayed message: one bit for each of the 28 delay queues.

Source: `kombu.transport.native_delayed_delivery`, kombu 5.7.
"""


def returns_of(message: Any) -> int:
    """Return how often a message came back to its queue; 0 for other brokers.

    It also removes the traces of a delay, because the routing key must name only the queue, and a
    job that is deferred again would keep the headers.
    """
    headers, delivery = as_object(message.headers), as_object(message.delivery_info)
    key = as_text(delivery.get("routing_key"))
    if delay := _DELAY_RE.match(key):
        delivery["routing_key"] = key[delay.end() :]
    returns = headers.get(_RETURNS)
    for name in [name for name in headers if as_text(name).startswith("x-")]:
        if "death" in name or name == _RETURNS:
            del headers[name]
    return returns if type(returns) is int else 0
