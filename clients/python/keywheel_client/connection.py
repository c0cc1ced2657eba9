"""Where Redis is, what the names in it are, and what its errors become here."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Self

from redis.exceptions import RedisError

from keywheel_client.checks import job_of, text_of
from keywheel_client.errors import Unavailable, UnreadableRecord

CANCEL_KEPT_S: Final = 30 * 86_400
"""As long as the longest deadline that a job may have."""
OPTIONS: Final[dict[str, Any]] = {
    "decode_responses": True,
    "max_connections": 1_000,
    "socket_connect_timeout": 5,
    "socket_timeout": 30,
    "health_check_interval": 25,
}
"""Of redis-py's clients. What stands in the URL has precedence."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """The URLs of Redis: of the queues, of the results, of cancels and streams."""

    broker: str
    results: str
    pool: str

    @classmethod
    def of(cls, url: str | None, results_url: str | None, pool_url: str | None) -> Self:
        """Use `REDIS_URL` for each address that is not given, else Redis on this machine."""
        for name, given in (("url", url), ("results_url", results_url), ("pool_url", pool_url)):
            if given is not None:
                text_of(given, name)
        main = url or os.environ.get("REDIS_URL") or "redis://127.0.0.1:6379/0"
        return cls(*map(_plain, (main, results_url or main, pool_url or main)))


def _plain(url: str) -> str:
    """Write a socket's URL as redis-py reads it."""
    return url.replace("redis+socket://", "unix://", 1)


@dataclass(frozen=True, slots=True)
class Names:
    """What a job's records are called.

    Args:
        namespace: `KEYWHEEL_NAMESPACE` of the workers.
    """

    namespace: str

    @classmethod
    def of(cls, namespace: str | None) -> Self:
        """Take the namespace that was given, or else that of `KEYWHEEL_NAMESPACE`."""
        if namespace is not None:
            text_of(namespace, "namespace")
        return cls(namespace or os.environ.get("KEYWHEEL_NAMESPACE") or "kw")

    @property
    def cancel_channel(self) -> str:
        """Where the ids of cancelled jobs are published."""
        return f"{self.namespace}:cancelled"

    def cancel(self, job: str) -> str:
        """The key that says that a job is cancelled."""
        return f"{self.namespace}:cancelled:{job_of(job)}"

    def stream(self, job: str) -> str:
        """The stream of a job's answer."""
        return f"{self.namespace}:stream:{job_of(job)}"

    @staticmethod
    def result(job: str) -> str:
        """The record of a job in the result store."""
        return f"celery-task-meta-{job_of(job)}"


@contextmanager
def redis_errors() -> Iterator[None]:
    """Turn an error of Redis' client into one of this package.

    Raises:
        Unavailable: Redis cannot be reached, or rejects the command.
        UnreadableRecord: What it holds is not text.
    """
    try:
        yield
    except UnicodeDecodeError as exc:
        raise UnreadableRecord(
            "what Redis holds of the job is not text: another program wrote it"
        ) from exc
    except RedisError as exc:
        raise Unavailable(f"Redis: {exc or type(exc).__name__}") from exc
