"""The URLs of the three roles of Redis: broker, results and pool."""

import os
from dataclasses import dataclass
from typing import Any

from config.amqp_url import AmqpUrl, is_amqp
from config.fields import RESULT_BACKEND_CLASS
from config.redis_url import ALL_SCHEMES
from config.redis_url import RedisUrl as ParsedUrl
from config.settings import Settings


@dataclass(frozen=True, slots=True)
class RedisUrls:
    """The URLs of the three roles, each as its library reads it. They hold passwords.

    Attributes:
        broker: For kombu.
        broker_as_pool: For redis-py; empty where RabbitMQ is the broker.
        broker_db: The broker's database, which kombu reads apart from the URL of a socket.
        broker_options: The transport options for kombu.
        results: For Celery's result backend.
        results_as_pool: For redis-py.
        pool: For redis-py.
    """

    broker: str
    broker_as_pool: str
    broker_db: int
    broker_options: dict[str, Any]
    results: str
    results_as_pool: str
    pool: str

    @classmethod
    def of(cls, settings: Settings) -> "RedisUrls":
        """Make them from the settings."""
        results, pool = (
            ParsedUrl.read(url.get_secret_value(), schemes=ALL_SCHEMES)
            for url in (settings.result_backend_url, settings.pool_url)
        )
        others = (results.for_results, results.for_pool, pool.for_pool)
        broker_url = settings.broker_url.get_secret_value()
        if is_amqp(broker_url):
            return cls(AmqpUrl.read(broker_url).url, "", 0, {}, *others)
        broker = ParsedUrl.read(broker_url, schemes=ALL_SCHEMES)
        url, options = broker.for_broker
        return cls(url, broker.for_pool, broker.db, options, *others)


def claim_result_backend(settings: Settings) -> None:
    """Make Celery use our result backend although CELERY_RESULT_BACKEND is set.

    Celery reads that variable before any configuration, and would use its own blocking backend. So
    this puts our class before the URL in the variable, and reading the settings removes it again.
    Without the variable it does nothing.
    Source: `celery.app.utils.Settings.result_backend`, Celery 5.7.
    """
    if os.environ.get("CELERY_RESULT_BACKEND"):
        url = RedisUrls.of(settings).results
        os.environ["CELERY_RESULT_BACKEND"] = f"{RESULT_BACKEND_CLASS}+{url}"
