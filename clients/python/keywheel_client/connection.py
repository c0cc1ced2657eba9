"""Holds Redis' addresses and the names of records, and translates the errors of its client."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Self

from redis.exceptions import RedisError

from keywheel_client.checks import job_of, text_of
from keywheel_client.errors import Unavailable, UnreadableRecord

CANCEL_KEPT_S: Final = 30 * 86_400
"""How long a cancel is kept, in seconds: as long as the longest deadline of a job."""
OPTIONS: Final[dict[str, Any]] = {
    "decode_responses": True,
    "max_connections": 1_000,
    "socket_connect_timeout": 5,
    "socket_timeout": 30,
    "health_check_interval": 25,
}
"""Options of redis-py's clients. Options in the URL take precedence."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """The Redis URLs of the queues, of the results, and of cancels and streams."""

    broker: str
    results: str
    pool: str

    @classmethod
    def of(cls, url: str | None, results_url: str | None, pool_url: str | None) -> Self:
        """Take the given addresses; for the others use `url`, `REDIS_URL` or Redis on this host."""
        for name, given in (("url", url), ("results_url", results_url), ("pool_url", pool_url)):
            if given is not None:
                text_of(given, name)
        main = url or os.environ.get("REDIS_URL") or "redis://127.0.0.1:6379/0"
        return cls(*map(_plain, (main, results_url or main, pool_url or main)))


def _plain(url: str) -> str:
    """Write the URL of a Unix socket in the form that redis-py reads."""
    return url.replace("redis+socket://", "unix://", 1)


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a job's records in Redis.

    Args:
        namespace: `KEYWHEEL_NAMESPACE` of the workers.
    """

    namespace: str

    @classmethod
    def of(cls, namespace: str | None) -> Self:
        """Use the given namespace, or else the one in `KEYWHEEL_NAMESPACE`."""
        if namespace is not None:
            text_of(namespace, "namespace")
        return cls(namespace or os.environ.get("KEYWHEEL_NAMESPACE") or "kw")

    @property
    def cancel_channel(self) -> str:
        """The channel on which the ids of cancelled jobs are published."""
        return f"{self.namespace}:cancelled"

    def cancel(self, job: str) -> str:
        """Return the name of the Redis key that marks a job as cancelled."""
        return f"{self.namespace}:cancelled:{job_of(job)}"

    def stream(self, job: str) -> str:
        """Return the name of the stream with a job's answer."""
        return f"{self.namespace}:stream:{job_of(job)}"

    @staticmethod
    def result(job: str) -> str:
        """Return the name of a job's record in the result store."""
        return f"celery-task-meta-{job_of(job)}"


@contextmanager
def redis_errors() -> Iterator[None]:
    """Turn an error of Redis' client into one of this package.

    Raises:
        Unavailable: Redis cannot be reached, or rejects the command.
        UnreadableRecord: A value in Redis is not text.
    """
    try:
        yield
    except UnicodeDecodeError as exc:
        raise UnreadableRecord(
            "the job's record in Redis is not text: another program wrote it"
        ) from exc
    except RedisError as exc:
        raise Unavailable(f"Redis: {exc or type(exc).__name__}") from exc
