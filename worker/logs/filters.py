"""Removes the content of jobs and the tracebacks of lost connections from log records."""

import logging
from collections.abc import Mapping
from typing import Any, Final

from amqp.exceptions import AMQPError

# The fields of Celery's context that hold no content of a job, unlike arguments and results.
_SAFE_CONTEXT = frozenset(
    {"id", "name", "eta", "runtime", "hostname", "description", "exc", "internal", "waits"}
)

# How Celery's consumer begins its records of messages that it cannot run, and the indexes of the
# values that are a body or headers.
_WHOLE_MESSAGES: Final = {
    "Received unregistered task": (1, 2),
    "Received invalid task message": (1,),
    "Can't decode message body": (3, 4),
    "Received and deleted unknown message": (0,),
}
_UNDECODED: Final = "Can't decode message body"
_UNSENT: Final = "Message Error: "


class ContentFilter(logging.Filter):
    """Removes arguments and results (prompts, mail bodies) from Celery's own records."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, without its content."""
        if record.name.startswith("celery."):
            if isinstance(record.args, Mapping) and "return_value" in record.args:
                record.args = {**record.args, "return_value": "(not shown)"}
            elif isinstance(record.args, tuple):
                record.args = _without_messages(str(record.msg), record.args)
                if str(record.msg).startswith(_UNDECODED):
                    # An encoding error quotes the whole text.
                    record.args = (type(record.args[0]), *record.args[1:])
                    record.exc_info = record.exc_text = None
            data = record.__dict__.get("data")
            if isinstance(data, Mapping):
                record.__dict__["data"] = {
                    name: data[name] for name in data if name in _SAFE_CONTEXT
                }
        return True


def _without_messages(template: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    for start, hidden in _WHOLE_MESSAGES.items():
        if template.startswith(start):
            return tuple(
                "(not shown)" if index in hidden else value for index, value in enumerate(values)
            )
    return values


class LostConnectionFilter(logging.Filter):
    """Removes tracebacks of lost connections from the records of Celery's worker.

    After a connection is lost, each operation that was scheduled on it, such as an acknowledgement
    or a read with RabbitMQ, fails with a traceback of the client's own code. The message alone
    names the cause. Tracebacks of jobs are in other records, those of `celery.app.trace`.

    Beat, too, adds its own stack to its record of each job that the broker does not accept.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        exc = record.exc_info[1] if record.exc_info else None
        if record.name.startswith("celery.worker.") and isinstance(
            exc, (AMQPError, ConnectionError)
        ):
            record.exc_info = record.exc_text = None
        is_unsent = record.name == "celery.beat" and str(record.msg).startswith(_UNSENT)
        if is_unsent and isinstance(record.args, tuple) and _is_of_broker(exc):
            record.msg, record.args = "%s; this run of the task may be lost", record.args[:1]
            record.exc_info = record.exc_text = None
        return True


def _is_of_broker(exc: BaseException | None) -> bool:
    """Return whether an error of the broker caused the error that beat raised in its place."""
    # Imported here: if redis-py is missing, or another module has its name, the start must still
    # be able to log that.
    from redis.exceptions import RedisError  # noqa: PLC0415

    from worker.broker_errors import BROKER_ERRORS  # noqa: PLC0415

    met = (exc, exc.__context__) if exc is not None else ()
    return any(isinstance(error, (*BROKER_ERRORS, RedisError, OSError)) for error in met)
