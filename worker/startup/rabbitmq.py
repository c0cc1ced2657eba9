"""Checks RabbitMQ when a worker starts, and ends the start if it refuses the worker's login."""

import logging
from typing import Any, Final

from amqp.exceptions import AccessRefused, NotAllowed
from kombu.connection import Connection

from config.amqp_url import AmqpUrl, is_amqp
from config.errors import SettingsError
from config.settings import Settings, variable_of
from worker.broker_errors import BROKER_ERRORS
from worker.startup.redis_tls import tls_refusal_of

_logger = logging.getLogger(__name__)

_PATIENCE_S: Final = 5.0
_Connection: Any = Connection  # kombu's classes are only half typed


def check_rabbitmq(settings: Settings) -> None:
    """Connect once. If RabbitMQ is away, the worker starts and waits for it, as for a Redis.

    Args:
        settings: The settings with the broker's URL. Nothing is done if it names a Redis.

    Raises:
        SettingsError: RabbitMQ does not know this login, or the virtual host.
    """
    broker = settings.broker_url.get_secret_value()
    if not is_amqp(broker):
        return
    url = AmqpUrl.read(broker)
    ssl = dict(url.tls) if url.tls is not None else False
    connection: Any = _Connection(url.url, ssl=ssl, connect_timeout=_PATIENCE_S)
    try:
        connection.connect()
    except (*BROKER_ERRORS, OSError) as exc:
        refusal = refusal_by_rabbitmq(exc) or tls_refusal_of(exc.__cause__ or exc)
        if refusal is not None:
            variable = variable_of("broker_url")
            raise SettingsError(
                [f"{variable}: RabbitMQ at {settings.broker_url} {refusal}."]
            ) from None
        _logger.debug("cannot check RabbitMQ at %s yet: %s", settings.broker_url, exc)
    finally:
        connection.release()


def refusal_by_rabbitmq(exc: BaseException) -> str | None:
    """Say why RabbitMQ cannot be used with these settings; None for any other error."""
    if isinstance(exc, AccessRefused):
        return "does not let this worker in: the user or the password is wrong"
    if isinstance(exc, NotAllowed):
        return (
            "has no such virtual host, or this user may not use it: its name is at the end of the "
            "URL, as in amqp://user:password@host:5672/vhost"
        )
    return None
