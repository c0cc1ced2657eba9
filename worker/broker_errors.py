"""The errors that Celery raises if the broker cannot be reached, or refuses the login."""

from typing import Final

from kombu.exceptions import ChannelError, ConnectionError, OperationalError  # noqa: A004 - of AMQP

BROKER_ERRORS: Final = (OperationalError, ChannelError, ConnectionError)
"""`OperationalError` comes from any broker, the others from RabbitMQ.

RabbitMQ refuses a login or a virtual host with them. A Redis as broker may also raise redis-py's
own errors.
"""
