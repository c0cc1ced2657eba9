"""Announces jobs that end outside of their task; bounds the notifications that a worker takes."""

import logging
from typing import Any, Final

from celery import bootsteps
from celery.worker import state

from config.celery import DEFERRED, NOTIFY
from worker.aio import lifespan
from worker.notifications import announce, announces
from worker.notifications.announcing import TASK

_logger = logging.getLogger(__name__)

_TIMEOUT_S: Final = 3.0
_MOST_TAKEN: Final = 64


def announce_from_consumer(
    app: Any, context: Any, task: str, how: str, end: dict[str, Any]
) -> None:
    """Publish the notification of a job's end on the consumer's thread; see `announce`.

    It waits a few seconds for the broker. If the broker answers later, the notification may still
    be published.
    """
    if not announces(task, context.kwargs):
        return
    try:
        lifespan.submit(announce(app, context, task, how, end)).result(_TIMEOUT_S)
    except (RuntimeError, TimeoutError) as exc:
        _logger.warning(
            "the notification of %s is late (%s); it is lost if this worker ends now",
            context.id,
            type(exc).__name__,
        )


class NotificationBound(bootsteps.StartStopStep):
    """Leaves most notifications in the broker, so that a worker has room for other jobs."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    name = "NotificationBound"

    def start(self, parent: Any) -> None:
        """Bound the notifications that the channel of this connection takes."""
        channel = parent.task_consumer.channel
        if hasattr(channel, "take_at_most") and NOTIFY in parent.app.amqp.queues.consume_from:
            for queue in (NOTIFY, NOTIFY + DEFERRED):
                channel.take_at_most(queue, _more)


def _more() -> int:
    taken = sum(request.name == TASK for request in tuple(state.reserved_requests))
    # Not the difference: the smallest bound of any queue limits the messages of all queues.
    return _MOST_TAKEN if taken < _MOST_TAKEN else 0
