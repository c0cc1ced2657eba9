"""Checks Redis when a worker starts: a worker that may not use it exits with Redis' own words."""

import logging
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
    ResponseError,
)

from config.celery import consumed_queues
from config.errors import SettingsError
from config.redis_roles import RedisUrls
from config.services import SERVICES
from config.settings import Settings, variable_of
from worker.aio.connections import parameters_of
from worker.aio.redis_retry import words_of
from worker.aio.sentinels import UnknownPrimary
from worker.startup.redis_tls import (
    missing_tls,
    tls_refusal_of,
    unusable_files,
    unwanted_certificate,
)

_logger = logging.getLogger(__name__)

_PATIENCE_S: Final = 5.0
_GUIDE: Final = "docs/operations.md lists the rights that a worker needs"
_CLUSTER: Final = (
    "is a Redis Cluster, which is not supported: use one server, or a primary with replicas"
)

Command = tuple[Any, ...]


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
        """What is wrong, and what to do."""
        return (
            "Redis may evict jobs, results and the state of the keys when it is full: its "
            f"maxmemory-policy is {self.policy}. Set it to noeviction; then producers get an error "
            "instead."
        )

    @classmethod
    def of(cls, memory: dict[str, Any]) -> "Eviction | None":
        """Read `INFO memory`; None where nothing is evicted."""
        policy = str(memory.get("maxmemory_policy", "noeviction"))
        maxmemory = int(memory.get("maxmemory", 0))
        return cls(policy, maxmemory) if maxmemory and policy != "noeviction" else None


async def eviction_of(client: "redis.asyncio.Redis") -> Eviction | None:
    """Ask a Redis whether it evicts; None where it does not, or does not answer."""
    try:
        return Eviction.of(await client.info("memory"))
    except RedisError:
        return None


def check_redis(settings: Settings) -> None:
    """Check each Redis of a worker, before the worker takes a job.

    The worker also starts where a Redis is away or busy, and waits for it. What works and should be
    changed is logged.

    Args:
        settings: Where Redis is.

    Raises:
        SettingsError: Redis does not let this worker in, denies it a right that it needs, or is of
            a kind that cannot serve.
    """
    urls = RedisUrls.of(settings)
    servers = {
        "broker_url": (
            urls.broker_as_pool,
            _broker_commands(settings),
            _broker_channels(urls.broker_db),
        ),
        "result_backend_url": (
            urls.results_as_pool,
            _result_commands(),
            ["celery-task-meta-check"],
        ),
        "pool_url": (
            urls.pool,
            _pool_commands(settings.namespace),
            _pool_channels(settings.namespace),
        ),
    }
    by_url: dict[str, tuple[str, list[Command], list[str]]] = {}
    if not urls.broker_as_pool:  # RabbitMQ
        del servers["broker_url"]
    for field, (url, commands, channels) in servers.items():
        _, known_commands, known_channels = by_url.setdefault(url, (field, [], []))
        known_commands += commands
        known_channels += channels
    sentences: list[str] = []
    for url, (field, commands, channels) in by_url.items():
        value = getattr(settings, field)
        variable = variable_of("redis_url" if value == settings.redis_url else field)
        try:
            sentences += [
                f"{variable}: Redis at {value} {words}." for words in _look(url, commands, channels)
            ]
        except (RedisError, OSError) as exc:
            refusal = (
                unusable_files(url)
                or refusal_of(exc)
                or missing_tls(url)
                or unwanted_certificate(url)
            )
            if refusal is None:
                _logger.debug("cannot check Redis at %s yet: %s", value, words_of(exc))
            else:
                sentences.append(f"{variable}: Redis at {value} {refusal.rstrip('.')}.")
    if sentences:
        raise SettingsError(sentences)


def _look(url: str, commands: list[Command], channels: list[str]) -> Iterator[str]:
    options = {
        "socket_timeout": _PATIENCE_S,
        "socket_connect_timeout": _PATIENCE_S,
        "decode_responses": True,
    }
    pool = redis.ConnectionPool(**(options | parameters_of(url)))
    with closing(redis.Redis.from_pool(pool)) as client:
        client.ping()
        info = _info(client)
        if info.get("cluster_enabled"):
            yield _CLUSTER
            return
        if evicts := Eviction.of(info):
            _logger.warning(evicts.sentence)
        if denied := next(_denied(client, commands, channels), None):
            yield f"denies this worker a right ({denied}); {_GUIDE}"


def _info(client: "redis.Redis") -> dict[str, Any]:
    try:
        info: dict[str, Any] = client.info()
    except NoPermissionError:
        return {}  # no worker needs this right
    return info


def _denied(client: "redis.Redis", commands: list[Command], channels: list[str]) -> Iterator[str]:
    """What Redis denies, in its words. It checks the rights before a command does anything."""
    pipe = client.pipeline(transaction=False)
    for command in commands:
        pipe.execute_command(*command)  # type: ignore[no-untyped-call]
    for command, answer in zip(commands, pipe.execute(raise_on_error=False), strict=True):
        if isinstance(answer, NoPermissionError):
            key = command[3] if command[0] == "EVAL" else command[1]
            yield f"{words_of(answer)}: {command[0]} {key}"
        elif isinstance(answer, MovedError):
            yield f"{words_of(answer)}: it {_CLUSTER}"
    with client.pubsub() as pubsub:  # type: ignore[no-untyped-call]
        try:
            for channel in channels:
                subscribe = pubsub.psubscribe if "*" in channel else pubsub.subscribe
                subscribe(channel)
                pubsub.parse_response(block=True, timeout=_PATIENCE_S)
        except NoPermissionError as exc:
            yield f"{words_of(exc)}: SUBSCRIBE {channel}"


def refusal_of(exc: BaseException) -> str | None:
    """Why Redis cannot be used with these settings; None for an error that may pass by itself."""
    causes: list[BaseException] = [exc]
    while (
        cause := causes[-1].__cause__ or causes[-1].__context__
    ) is not None and cause not in causes:
        causes.append(cause)
    for cause in causes:
        if (tls := tls_refusal_of(cause)) is not None:
            return tls
        if isinstance(cause, AuthenticationError | AuthorizationError | NoPermissionError):
            return f"does not let this worker in: {words_of(cause)}"
        if isinstance(cause, MovedError):
            return _CLUSTER
        if isinstance(cause, UnknownPrimary):
            return f"cannot be found: {words_of(cause)}; the option master_name of the URL names it"
        if isinstance(cause, ResponseError) and "DB index is out of range" in str(cause):
            return (
                "does not have the database that stands at the end of the URL: it numbers those "
                "that it has from 0"
            )
    return None


# One command of each kind that a worker needs; none of them changes anything.


def _broker_commands(settings: Settings) -> list[Command]:
    nothing = "keywheel-check"
    commands: list[Command] = [
        ("EVAL", "return 1", 1, "unacked"),
        ("HGET", "unacked", nothing),
        ("ZSCORE", "unacked_index", nothing),
        ("HDEL", "unacked", nothing),
        ("LLEN", "unacked"),
    ]
    for queue in consumed_queues(settings):
        commands += [
            ("LLEN", queue),
            ("LREM", queue, 0, nothing),
            ("SMEMBERS", f"_kombu.binding.{queue}"),
        ]
    return commands


def _broker_channels(db: int) -> list[str]:
    return [f"/{db}.celery.pidbox", f"/{db}.celeryev/worker.*"]


def _result_commands() -> list[Command]:
    name = "celery-task-meta-check"
    return [
        ("GET", name),
        ("MGET", name),
        ("DEL", name),
        ("EVAL", "return 1", 1, name),
        ("PUBLISH", name, ""),
    ]


def _pool_commands(namespace: str) -> list[Command]:
    stream = f"{namespace}:stream:check"
    tagged = f"{{{namespace}:{next(iter(SERVICES))}}}"
    return [
        ("EVAL", "return redis.call('TIME')", 1, tagged),
        ("SCRIPT", "EXISTS", "0" * 40),
        ("XREVRANGE", stream, "+", "-", "COUNT", 1),
        ("XTRIM", stream, "MAXLEN", 0),
        ("PEXPIRE", stream, 1),
        ("MGET", f"{namespace}:cancelled:check"),
        ("DEL", f"{namespace}:cancelled:check"),
    ]


def _pool_channels(namespace: str) -> list[str]:
    return [*(f"{{{namespace}:{name}}}:wake" for name in SERVICES), f"{namespace}:cancelled"]
