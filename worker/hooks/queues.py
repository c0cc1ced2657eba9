"""Chooses the queues of a worker: by default, those of the services that it has keys for."""

import difflib
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from config.celery import DEFERRED, DELAYED_QUEUES, FOREIGN, QUEUES
from config.services import services_of

_logger = logging.getLogger(__name__)


class QueueChoice:
    """The queues of one worker.

    Args:
        requested: The queues that -Q names; None or empty: the keys decide.
    """

    def __init__(self, requested: str | Iterable[str] | None) -> None:
        names = requested.split(",") if isinstance(requested, str) else requested or ()
        self._requested = frozenset(names)
        self._without_keys: set[str] = set()

    @property
    def by_keys(self) -> bool:
        """Whether the keys decide, because -Q names no queue."""
        return not self._requested

    def unknown(self, *, has_custom_tasks: bool) -> Iterator[str]:
        """Yield a warning for each queue that -Q names and no task uses, with a suggestion.

        Args:
            has_custom_tasks: Whether there are tasks of the user, which may use any queue.
        """
        known = sorted({*QUEUES, *DELAYED_QUEUES.values(), *DELAYED_QUEUES})
        for queue in sorted(self._requested.difference(known, {FOREIGN})):
            nearest = difflib.get_close_matches(queue, known, n=1)
            if nearest or not has_custom_tasks:
                known_ones = f": there are {', '.join(QUEUES)}"
                hint = f"; did you mean {nearest[0]}?" if nearest else known_ones
                yield f"-Q names {queue}, a queue that no task of Keywheel uses{hint}"

    def select(self, queues: Any, keys: Mapping[str, int]) -> None:
        """Select the queues of the services that have a key, with their deferred queues.

        Args:
            queues: The app's queues, before the consumer starts.
            keys: How many keys each service has.
        """
        if self.by_keys:
            for queue in _queues_without_keys(keys):
                queues.deselect(list(self._leave(queue)))
        consumed = queues.consume_from
        for queue in DELAYED_QUEUES.values():
            # People name only the queue with -Q, not its deferred queue.
            if queue in consumed and queue + DEFERRED not in consumed:
                queues.select_add(queues[queue + DEFERRED])

    def follow(self, consumer: Any, keys: Mapping[str, int]) -> None:
        """Consume the queues of services that have keys now; cancel those of services without keys.

        Args:
            consumer: Celery's consumer; called on its thread.
            keys: How many keys each service has after the reload.
        """
        if not self.by_keys:
            return
        before, now = set(self._without_keys), set(_queues_without_keys(keys))
        self._without_keys &= now
        for queue in sorted(before - now):
            for name in (queue, queue + DEFERRED):
                consumer.app.amqp.queues.select_add(consumer.app.amqp.queues[name])
                consumer.add_task_queue(name)
        for queue in sorted(now - before):
            for name in self._leave(queue):
                consumer.cancel_task_queue(name)

    def _leave(self, queue: str) -> tuple[str, str]:
        self._without_keys.add(queue)
        _logger.warning(
            "no %s key is configured: this worker does not consume the queue %s",
            " or ".join(services_of(queue)),
            queue,
        )
        return queue, queue + DEFERRED


def _queues_without_keys(keys: Mapping[str, int]) -> list[str]:
    """Return the queues whose services have no key at all."""
    return [
        queue
        for queue in DELAYED_QUEUES.values()
        if (services := services_of(queue)) and not any(keys[service] for service in services)
    ]
