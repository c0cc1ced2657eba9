"""Remote control with connections of its own, so that jobs which publish cannot keep the consumer from it.

Celery's mailbox takes a producer from the app's pool and does not wait for one. Other pools run
jobs in other processes; here jobs share that pool, and when all of it is lent at the instant in
which the consumer greets its neighbours, after a connection was lost, say, Celery ends the worker.
"""

from typing import Any

import celery
from kombu.pools import ProducerPool

_CONNECTIONS = 4


def install(app: celery.Celery) -> None:
    """Use them from now on."""
    # No limit: a producer is a small object, and whoever finds none lent to it fails.
    connections: Any = app.connection_for_write().Pool(limit=_CONNECTIONS)
    pool: Any = ProducerPool
    app.control.mailbox._producer_pool = pool(connections, limit=None)  # noqa: SLF001 - it has no setter


def uninstall(app: celery.Celery) -> None:
    """Undo `install`, and close the connections."""
    mailbox = app.control.mailbox
    if mailbox.producer_pool is not app.amqp.producer_pool:
        mailbox.producer_pool.connections.force_close_all()
        mailbox._producer_pool = app.amqp.producer_pool  # noqa: SLF001
