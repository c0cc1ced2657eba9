"""Gives remote control its own connections, and lets it see which jobs run.

Celery's mailbox takes a producer from the app's pool and does not wait for one. Other pools run
jobs in other processes; here jobs share that pool. If all producers are in use when the consumer
contacts other workers, for instance after a lost connection, Celery ends the worker.

A connection is closed after its reply: replies are rare, and servers count idle connections.

Where the broker takes no reply, as while Redis is full, the log says so in a line. A reply is tried
once more over a new connection, and then given up: Celery would try without end, and as replies are
sent by the thread of the consumer, the worker would neither take a message nor end meanwhile.

A job begins on the loop, and the consumer learns of it a moment later. A command that came in
between would take the job for one that waits: Celery would store it as revoked, although it runs.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

import celery
from celery.worker.control import Panel
from kombu.exceptions import OperationalError
from kombu.pools import ProducerPool

from worker.aio.redis_retry import warn, words_of

_SEE_JOBS: Final = (
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
    """Replace the mailbox's producers, and have commands that see jobs take the reports first.

    Args:
        app: The Celery app.
        take_reports: Runs what the loop has posted to the consumer's thread.
    """
    # There is no limit: a producer is a small object, and a caller that gets none fails. A pool
    # without a limit keeps nothing.
    connections: Any = app.connection_for_write().Pool(limit=None)
    pool: Any = ProducerPool
    mailbox: Any = app.control.mailbox
    _set_producers(mailbox, pool(connections, limit=None))
    mailbox._publish_reply = _given_up_in_a_line(mailbox._publish_reply)  # noqa: SLF001
    for name in _SEE_JOBS:
        _commands[name] = _after(take_reports, _commands[name])


def uninstall(app: celery.Celery) -> None:
    """Undo `install`."""
    for name in _SEE_JOBS:
        _commands[name] = getattr(_commands[name], "__wrapped__", _commands[name])
    mailbox = app.control.mailbox
    vars(mailbox).pop("_publish_reply", None)
    _set_producers(mailbox, app.amqp.producer_pool)


def _set_producers(mailbox: Any, pool: Any) -> None:
    mailbox._producer_pool = pool  # noqa: SLF001 - it has no setter
    vars(mailbox).pop("producer_pool", None)  # where it keeps the one that it has used


def _given_up_in_a_line(publish: Callable[..., Any]) -> Callable[..., None]:
    """Say in a line that the broker takes no reply; Celery logs a traceback, or tries for ever."""

    def publish_reply(*args: Any, **kwargs: Any) -> None:
        try:
            publish(*args, retry_policy=_RETRY_POLICY, **kwargs)
        except OperationalError as exc:
            warn("remote control: the broker takes no reply (%s)", words_of(exc))

    return publish_reply


def _after(take_reports: Callable[[], None], command: Any) -> Any:
    @wraps(command)
    def take_and_run(*args: Any, **kwargs: Any) -> Any:
        take_reports()
        return command(*args, **kwargs)

    return take_and_run
