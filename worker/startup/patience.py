"""Bounds how long Flower and the commands wait for a Redis that hangs.

A worker waits half a minute for each answer, and tries until the broker answers, because jobs are
safe meanwhile. In Flower and the commands a person waits, so they give up earlier.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from celery import Celery

from config.current import get_settings
from config.redis_roles import RedisUrls

REPLY_S: Final = 5.0
"""How long an answer may take, in seconds, unless the URL sets another time."""
_RETRY_POLICY: Final = {"max_retries": 1, "interval_start": 0, "interval_step": 0}


def shorten_waits(app: Celery) -> None:
    """Give up an answer of Redis after a few seconds, and a message after one more try.

    This affects connections that are opened later. A second call changes nothing.

    Args:
        app: The Celery app of a process other than a worker.
    """
    conf = app.conf
    options = dict(conf.broker_transport_options)
    if "socket_timeout" in options:  # the broker is Redis
        own = RedisUrls.of(get_settings()).broker_options
        conf.broker_transport_options = options | {"socket_timeout": REPLY_S} | own
    conf.redis_socket_timeout = REPLY_S
    conf.redis_retry_on_timeout = False
    conf.task_publish_retry_policy = _RETRY_POLICY
    mailbox: Any = app.control.mailbox
    if "producer_or_acquire" not in vars(mailbox):
        mailbox.producer_or_acquire = _with_single_retry(mailbox.producer_or_acquire)


class _SingleRetryProducer:
    """A producer of remote-control commands that tries once more; Celery's would try for ever."""

    def __init__(self, producer: Any) -> None:
        self._producer: Final = producer

    def publish(self, *args: Any, **options: Any) -> Any:
        """Publish a message."""
        return self._producer.publish(*args, **options, retry_policy=_RETRY_POLICY)


def _with_single_retry(acquire: Any) -> Any:
    @contextmanager
    def producer_or_acquire(*args: Any, **options: Any) -> Iterator[_SingleRetryProducer]:
        with acquire(*args, **options) as producer:
            yield _SingleRetryProducer(producer)

    return producer_or_acquire
