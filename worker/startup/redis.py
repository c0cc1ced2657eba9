"""Checks Redis when a worker starts; if Redis refuses the worker, the start ends with its words."""

import logging
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

import redis
import redis.asyncio
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    MovedError,
    NoPermissionError,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from config.errors import SettingsError
from config.redis_roles import RedisUrls
from config.settings import Settings, variable_of
from worker.aio.connections import parameters_of
from worker.aio.redis_retry import safe_message
from worker.aio.sentinels import UnknownPrimary
from worker.startup.redis_rights import CLUSTER, Rights, broker_rights, pool_rights, result_rights
from worker.startup.redis_tls import (
    mismatched_tls,
    tls_refusal_of,
    unusable_files,
    unwanted_certificate,
)

_logger = logging.getLogger(__name__)

_PATIENCE_S: Final = 5.0
_UNKNOWN_RE: Final = re.compile(r"unknown command '?`?([A-Za-z]+)")
_SENTINEL: Final = "is a sentinel: write sentinel://host:26379/0?master_name=NAME"
_GUIDE: Final = "docs/redis.md lists the rights that a worker needs"


@dataclass(frozen=True, slots=True)
class Eviction:
    """A Redis that may evict jobs, results and the state of keys and emails when it is full.

    Attributes:
        policy: Its `maxmemory-policy`.
        maxmemory: Its limit, in bytes.
    """

    policy: str
    maxmemory: int

    @property
    def sentence(self) -> str:
        """A sentence that says what is wrong, and what to do."""
        return (
            "Redis may evict jobs, results and the state of the keys when it is full: its "
            f"maxmemory-policy is {self.policy}. Set it to noeviction; then producers get an error "
            "instead."
        )

    @classmethod
    def of(cls, memory: dict[str, Any]) -> "Eviction | None":
        """Read `INFO memory`; None if nothing is evicted."""
        policy = str(memory.get("maxmemory_policy", "noeviction"))
        maxmemory = int(memory.get("maxmemory", 0))
        return cls(policy, maxmemory) if maxmemory and policy != "noeviction" else None


async def eviction_of(client: "redis.asyncio.Redis") -> Eviction | None:
    """Ask a Redis whether it evicts data; None if it does not, or does not answer."""
    try:
        return Eviction.of(await client.info("memory"))
    except RedisError:
        return None


def check_redis(settings: Settings) -> None:
    """Check each Redis of a worker, before the worker takes a job.

    If a Redis is away or busy, the worker starts and waits for it. A setting of Redis that works
    but should be changed is logged.

    Args:
        settings: The settings with the URLs of Redis.

    Raises:
        SettingsError: Redis refuses the login or denies a right that the worker needs, or it is a
            cluster or a sentinel.
    """
    urls = RedisUrls.of(settings)
    servers = {
        "broker_url": (urls.broker_as_pool, broker_rights(settings, urls.broker_db)),
        "result_backend_url": (urls.results_as_pool, result_rights()),
        "pool_url": (urls.pool, pool_rights(settings.namespace)),
    }
    by_url: dict[str, tuple[str, Rights]] = {}
    if not urls.broker_as_pool:  # RabbitMQ
        del servers["broker_url"]
    for field, (url, rights) in servers.items():
        by_url.setdefault(url, (field, Rights([], [], [])))[1].add(rights)
    sentences: list[str] = []
    for url, (field, rights) in by_url.items():
        value = getattr(settings, field)
        variable = variable_of("redis_url" if value == settings.redis_url else field)
        sentences += [
            f"{variable}: Redis at {value} {words}."
            for words in _problems_if_reachable(url, rights, value)
        ]
    if sentences:
        raise SettingsError(sentences)


def _problems_if_reachable(url: str, rights: Rights, value: object) -> Iterator[str]:
    """Yield why a Redis cannot serve; nothing if it is away."""
    try:
        yield from _problems(url, rights)
    except (RedisError, OSError) as exc:
        if (refusal := refusal_at(url, exc)) is None:
            _logger.debug("cannot check Redis at %s yet: %s", value, safe_message(exc))
        else:
            yield refusal.rstrip(".")


def _problems(url: str, rights: Rights) -> Iterator[str]:
    options = {
        "socket_timeout": _PATIENCE_S,
        "socket_connect_timeout": _PATIENCE_S,
        "decode_responses": True,
    }
    pool = redis.ConnectionPool(**(options | parameters_of(url)))
    with closing(redis.Redis.from_pool(pool)) as client:
        client.ping()
        info = _info(client)
        if "sentinel" in {info.get("redis_mode"), info.get("server_mode")}:
            yield _SENTINEL
            return
        if info.get("cluster_enabled"):
            yield CLUSTER
            return
        if evicts := Eviction.of(info):
            _logger.warning(evicts.sentence)
        if denied := next(rights.denied(client, patience_s=_PATIENCE_S), None):
            yield f"denies this worker a right ({denied}); {_GUIDE}"


def _info(client: "redis.Redis") -> dict[str, Any]:
    try:
        info: dict[str, Any] = client.info()
    except NoPermissionError:
        return {}  # no worker needs this right
    return info


def refusal_at(url: str, exc: BaseException) -> str | None:
    """Say why a Redis cannot be used with its URL; None for a transient error.

    If the error alone does not show the reason, this connects to Redis again.

    Args:
        url: The URL in redis-py's form.
        exc: The error of a connection or a command.
    """
    if not isinstance(exc, RedisConnectionError | RedisTimeoutError | OSError):
        return refusal_of(exc)  # Redis itself has answered
    return (
        unusable_files(url) or refusal_of(exc) or mismatched_tls(url) or unwanted_certificate(url)
    )


def _causes_of(exc: BaseException) -> list[BaseException]:
    """Return an error and the errors that caused it, the latest first."""
    causes: list[BaseException] = []
    each: BaseException | None = exc
    while each is not None and each not in causes:
        causes.append(each)
        each = each.__cause__ or each.__context__
    return causes


def refusal_of(exc: BaseException) -> str | None:
    """Say why Redis cannot be used with these settings; None for an error that may pass."""
    for cause in _causes_of(exc):
        if (tls := tls_refusal_of(cause)) is not None:
            return tls
        if isinstance(cause, AuthenticationError | AuthorizationError | NoPermissionError):
            return f"does not let this worker in: {safe_message(cause)}"
        if isinstance(cause, MovedError):
            return CLUSTER
        if isinstance(cause, UnknownPrimary):
            reason = safe_message(cause)
            return f"cannot be found: {reason}; the option master_name of the URL names it"
        if (reply := _refusal_in(str(cause))) and isinstance(cause, RedisError):
            return reply
    return None


def _refusal_in(reply: str) -> str | None:
    """Say why a Redis that answers with this error cannot serve."""
    if "DB index is out of range" in reply:
        return (
            "does not have the database at the end of the URL: the number of its first database is "
            "0"
        )
    found = _UNKNOWN_RE.search(reply)
    if found is None:
        return None
    if found[1].upper() == "SENTINEL":
        return "is not a sentinel: write redis://, or name the port of a sentinel"
    return f"has no command {found[1]}: it is a sentinel, or the command is renamed"
