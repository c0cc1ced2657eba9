"""Gives remote control its own connections, and shows it which jobs run.

Celery's mailbox takes a producer from the app's pool of producers, and fails if none is free. With
other pools, jobs run in other processes. Here jobs use the same producers. If all of them are in
use when the consumer contacts other workers, for example after a lost connection, Celery ends the
worker.

A connection is closed after its reply, because replies are rare and servers count idle connections.

If a reply cannot be sent, for example because Redis is full, the reply is sent once more over a new
connection. After that the reply is dropped, and one line is logged. Celery would retry without
end. The consumer's thread sends replies, so the worker could neither take messages nor end
meanwhile.

A job begins on the loop's thread, and the consumer learns of it a moment later. A command between
these moments would see the job as waiting: Celery would store the job as revoked although it runs.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

import celery
from celery.worker.control import Panel
from kombu.exceptions import OperationalError
from kombu.pools import ProducerPool

from worker.aio.redis_retry import safe_message, warn

_JOB_COMMANDS: Final = (
    "active",
    "dump_active",
    "query_task",
    "revoke",
    "revoke_by_stamped_headers",
    "terminate",
)
_RETRY_POLICY: Final = {"max_retries": 1, "interval_start": 0}
_commands: dict[str, Any] = Panel.data


def install(app: celery.Celery, take_reports: Callable[[], None]) -> None:
    """Replace the mailbox's producers, and make commands about jobs take the jobs' reports first.

    Args:
        app: The Celery app.
        take_reports: Runs the calls that the loop has posted to the consumer's thread.
    """
    # The pools have no limit, because a command that gets no producer fails, and a producer is a
    # small object. A pool without a limit keeps nothing for later use.
    connections: Any = app.connection_for_write().Pool(limit=None)
    pool: Any = ProducerPool
    mailbox: Any = app.control.mailbox
    _set_producers(mailbox, pool(connections, limit=None))
    mailbox._publish_reply = _logging_failure(mailbox._publish_reply)  # noqa: SLF001
    for name in _JOB_COMMANDS:
        _commands[name] = _after_reports(take_reports, _commands[name])


def uninstall(app: celery.Celery) -> None:
    """Undo `install`."""
    for name in _JOB_COMMANDS:
        _commands[name] = getattr(_commands[name], "__wrapped__", _commands[name])
    mailbox = app.control.mailbox
    vars(mailbox).pop("_publish_reply", None)
    _set_producers(mailbox, app.amqp.producer_pool)


def _set_producers(mailbox: Any, pool: Any) -> None:
    mailbox._producer_pool = pool  # noqa: SLF001 - it has no setter
    vars(mailbox).pop("producer_pool", None)  # the mailbox's cached pool


def _logging_failure(publish: Callable[..., Any]) -> Callable[..., None]:
    """Log one line if a reply cannot be sent; Celery logs a traceback, or retries for ever."""

    def publish_reply(*args: Any, **kwargs: Any) -> None:
        try:
            publish(*args, retry_policy=_RETRY_POLICY, **kwargs)
        except OperationalError as exc:
            warn("remote control: cannot send a reply (%s)", safe_message(exc))

    return publish_reply


def _after_reports(take_reports: Callable[[], None], command: Any) -> Any:
    @wraps(command)
    def take_and_run(*args: Any, **kwargs: Any) -> Any:
        take_reports()
        return command(*args, **kwargs)

    return take_and_run
