"""Warns when a worker starts that has the same name as another worker."""

import logging
import threading
from typing import Any, Final

from celery import signals
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

_logger = logging.getLogger(__name__)

_ANSWER_S: Final = 2.0
_TRIES: Final = 2
"""A worker that is just ready may miss its own first ping, and a busy worker answers late."""


@signals.worker_ready.connect(weak=False)
def check(sender: Any, **_: Any) -> None:
    """Ping this worker's own name, in a thread: two answers mean that two workers have it."""
    threading.Thread(
        target=_check, args=(sender.app, sender.hostname), daemon=True, name="worker-name"
    ).start()


def _check(app: Any, name: str) -> None:
    try:
        with app.connection_for_write() as connection:  # the app's own pools would keep it open
            mailbox = app.control.mailbox(connection)  # a copy
            # There is no setter. Without a pool, the mailbox sends through this connection.
            mailbox._producer_pool = None  # noqa: SLF001
            for _ in range(_TRIES):
                replies = mailbox._broadcast(  # noqa: SLF001
                    "ping", destination=[name], reply=True, timeout=_ANSWER_S, limit=2
                )
                if len(replies) > 1:
                    break
    except (KombuError, RedisError, OSError) as exc:
        _logger.debug(
            "cannot check whether another worker has the name %s (%s)", name, type(exc).__name__
        )
        return
    if len(replies) > 1:
        _logger.warning(
            "another worker has the name %s: give each its own (-n NAME@%%h), or commands, health "
            "and statistics of both are mixed up",
            name,
        )
