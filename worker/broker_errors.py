"""What Celery raises where the broker cannot be reached, or refuses the login."""

from typing import Final

from kombu.exceptions import ChannelError, ConnectionError, OperationalError  # noqa: A004 - of AMQP

BROKER_ERRORS: Final = (OperationalError, ChannelError, ConnectionError)
"""The first of any broker; RabbitMQ refuses a login or a virtual host with the other two.

A Redis as broker may also raise redis-py's own errors.
"""
