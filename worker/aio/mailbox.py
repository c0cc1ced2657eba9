"""Gives remote control its own connections, so that jobs which publish cannot block it.

Celery's mailbox takes a producer from the app's pool and does not wait for one. Other pools run
jobs in other processes; here jobs share that pool. If all producers are in use when the consumer
contacts other workers, for instance after a lost connection, Celery ends the worker.

A connection is closed after its reply: replies are rare, and servers count idle connections.
"""

from typing import Any

import celery
from kombu.pools import ProducerPool


def install(app: celery.Celery) -> None:
    """Replace the mailbox's producers."""
    # There is no limit: a producer is a small object, and a caller that gets none fails. A pool
    # without a limit keeps nothing.
    connections: Any = app.connection_for_write().Pool(limit=None)
    pool: Any = ProducerPool
    app.control.mailbox._producer_pool = pool(connections, limit=None)  # noqa: SLF001 - it has no setter


def uninstall(app: celery.Celery) -> None:
    """Undo `install`, and close the connections."""
    mailbox = app.control.mailbox
    if mailbox.producer_pool is not app.amqp.producer_pool:
        mailbox.producer_pool.connections.force_close_all()
        mailbox._producer_pool = app.amqp.producer_pool  # noqa: SLF001
