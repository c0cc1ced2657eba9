"""Tells, at a worker's start, that another worker has its name."""

import logging
import threading
from typing import Any, Final

from celery import signals
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

_logger = logging.getLogger(__name__)

_ANSWER_S: Final = 2.0


@signals.worker_ready.connect(weak=False)
def look(sender: Any, **_: Any) -> None:
    """Ask for this worker's name, beside the jobs: two answers are one too many."""
    threading.Thread(
        target=_look, args=(sender.app, sender.hostname), daemon=True, name="namesake"
    ).start()


def _look(app: Any, name: str) -> None:
    try:
        with app.connection_for_write() as connection:  # the app's own pools would keep it
            mailbox = app.control.mailbox(connection)  # a copy
            mailbox._producer_pool = None  # noqa: SLF001 - it has no setter; now it sends by its own connection
            replies = mailbox._broadcast(  # noqa: SLF001
                "ping", destination=[name], reply=True, timeout=_ANSWER_S, limit=2
            )
    except (KombuError, RedisError, OSError) as exc:
        _logger.debug(
            "whether another worker has the name %s cannot be asked (%s)", name, type(exc).__name__
        )
        return
    if len(replies) > 1:
        _logger.warning(
            "another worker has the name %s: give each its own (-n NAME@%%h), or commands, health "
            "and statistics of"
            " both are mixed up",
            name,
        )
