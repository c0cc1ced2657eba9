"""Logs a lost connection to the broker as one line."""

import logging

from amqp.exceptions import AMQPError


class LostConnectionFilter(logging.Filter):
    """Removes tracebacks of lost connections from the records of Celery's worker.

    What was scheduled on a connection that is gone by then, such as an acknowledgement or a read
    with RabbitMQ, fails each with a traceback of the client's own code. The line says why. The
    tracebacks of jobs are other records, of `celery.app.trace`.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        exc = record.exc_info[1] if record.exc_info else None
        if record.name.startswith("celery.worker.") and isinstance(
            exc, (AMQPError, ConnectionError)
        ):
            record.exc_info = record.exc_text = None
        return True
