"""Makes the URLs for the three roles of Redis: broker, results and pool."""

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
    """The URLs of the three roles, each in the form of its library. They contain passwords.

    Attributes:
        broker: The broker's URL for kombu.
        broker_as_pool: The broker's URL for redis-py; empty if RabbitMQ is the broker.
        broker_db: The broker's database. For a Unix socket, kombu does not read it from the URL.
        broker_options: The transport options for kombu.
        results: The result store's URL for Celery's result backend.
        results_as_pool: The result store's URL for redis-py.
        pool: The pool's URL for redis-py.
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
        """Make the URLs from the settings."""
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
    """Make Celery use our result backend even if CELERY_RESULT_BACKEND is set.

    Celery reads this variable before any configuration, and would use its own blocking backend. So
    this function puts our class before the URL in the variable; `config.fields` removes it when it
    reads the settings. If the variable is not set, the function does nothing.
    Source: `celery.app.utils.Settings.result_backend`, Celery 5.7.
    """
    if os.environ.get("CELERY_RESULT_BACKEND"):
        url = RedisUrls.of(settings).results
        os.environ["CELERY_RESULT_BACKEND"] = f"{RESULT_BACKEND_CLASS}+{url}"
