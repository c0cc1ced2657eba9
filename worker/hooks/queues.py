"""Which queues a worker consumes.

Those of the services that it has keys for, unless -Q names others.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from config.celery import DEFERRED, QUEUE_OF

_logger = logging.getLogger(__name__)

_asked_for: set[str] = set()
_left_alone: set[str] = set()


def ask_for(queues: str | Iterable[str] | None) -> None:
    """Remember what -Q names; begins anew."""
    _asked_for.clear()
    _left_alone.clear()
    if queues:
        _asked_for.update(queues.split(",") if isinstance(queues, str) else queues)


def are_asked_for() -> bool:
    """Whether -Q decides, and not the keys."""
    return bool(_asked_for)


def choose(queues: Any, keys: Mapping[str, int]) -> None:
    """Leave the queues of services without a key to other workers, and take each queue's deferred jobs as well.

    Args:
        queues: The app's queues, before the consumer starts.
        keys: How many keys each service has.
    """
    if not _asked_for:
        for service, count in keys.items():
            if not count:
                queues.deselect(list(_leave(service)))
    consumed = queues.consume_from
    for queue in QUEUE_OF.values():
        if (
            queue in consumed and queue + DEFERRED not in consumed
        ):  # -Q names the queue that people know
            queues.select_add(queues[queue + DEFERRED])


def follow(consumer: Any, keys: Mapping[str, int]) -> None:
    """After the keys were found again: consume what has keys now, and leave what has none any more.

    Args:
        consumer: Celery's consumer; called on its thread.
        keys: How many keys each service has.
    """
    if _asked_for:
        return
    for service, count in keys.items():
        queue = QUEUE_OF[service]
        if count and queue in _left_alone:
            _left_alone.discard(queue)
            for name in (queue, queue + DEFERRED):
                consumer.app.amqp.queues.select_add(consumer.app.amqp.queues[name])
                consumer.add_task_queue(name)
        elif not count and queue not in _left_alone:
            for name in _leave(service):
                consumer.cancel_task_queue(name)


def _leave(service: str) -> tuple[str, str]:
    queue = QUEUE_OF[service]
    _left_alone.add(queue)
    _logger.warning(
        "no %s key is configured: this worker leaves the queue '%s' alone", service, queue
    )
    return queue, queue + DEFERRED
