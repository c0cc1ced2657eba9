"""Checks the rights that a worker needs in each Redis: commands, keys and channels."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import redis
from redis.exceptions import MovedError, NoPermissionError, ResponseError

from config.celery import consumed_queues
from config.services import SERVICES
from config.settings import Settings
from worker.aio.redis_retry import safe_message

CLUSTER: Final = (
    "is a Redis Cluster, which is not supported: use one server, or a primary with replicas"
)

Command = tuple[Any, ...]
_OF_TEXTS: Final[tuple[Command, ...]] = (
    ("SET", 0),
    ("SETEX", 1, 0),
    ("EXISTS",),
    ("EXPIRE", 1),
    ("PEXPIRE", 1),
)
_OF_HASHES_AND_SETS: Final[tuple[Command, ...]] = (
    ("HSET", 0, 0),
    ("HMGET", 0),
    ("HEXISTS", 0),
    ("HGETALL",),
    ("HLEN",),
    ("SADD", 0),
    ("SREM", 0),
    ("SMEMBERS",),
    ("ZADD", 0, 0),
    ("ZREM", 0),
    ("ZCARD",),
    ("ZCOUNT", 0, 0),
    ("ZRANGE", 0, 0),
    ("ZRANGEBYSCORE", 0, 0),
)
_OF_LISTS: Final[tuple[Command, ...]] = (
    ("LPUSH", 0),
    ("RPUSH", 0),
    ("RPOP",),
    ("BRPOP", 1),
    ("LINDEX", 0),
    ("LPOS", 0),
    ("LRANGE", 0, 0),
    ("LTRIM", 0, 0),
    ("GETEX",),
    ("UNLINK",),
    ("ZMSCORE", 0),
    ("ZRANDMEMBER",),
    ("ZREMRANGEBYSCORE", 0, 0),
)
_OF_THE_POOL: Final[tuple[Command, ...]] = (
    ("HINCRBY", 0, 0),
    ("HSTRLEN", 0),
    ("XADD", "*", 0, 0),
    ("ZREMRANGEBYRANK", 0, 0),
    ("ZREVRANGEBYSCORE", 0, 0),
    ("ZSCORE", 0),
)


@dataclass(slots=True)
class Rights:
    """The rights that a worker needs in one Redis.

    Attributes:
        commands: Commands that change nothing, one for each kind of key. The check runs them.
        writing: Further commands, on one key. The check does not run them.
        channels: The channels that the worker subscribes to.
    """

    commands: list[Command]
    writing: list[Command]
    channels: list[str]

    def add(self, other: "Rights") -> None:
        """Add the rights that another role of the same Redis needs."""
        self.commands += other.commands
        self.writing += other.writing
        self.channels += other.channels

    def denied(self, client: "redis.Redis", *, patience_s: float) -> Iterator[str]:
        """Yield the rights that Redis denies, in its words.

        Redis checks the rights before it runs a command.
        """
        pipe = client.pipeline(transaction=False)
        for command in self.commands:
            pipe.execute_command(*command)  # type: ignore[no-untyped-call]
        answers = pipe.execute(raise_on_error=False)
        for command, answer in zip(self.commands, answers, strict=True):
            if isinstance(answer, NoPermissionError):
                key = command[3] if command[0] == "EVAL" else command[1]
                yield f"{safe_message(answer)}: {command[0]} {key}"
            elif isinstance(answer, MovedError):
                yield f"{safe_message(answer)}: it {CLUSTER}"
        yield from _denied_in_a_transaction(client, self.writing)
        with client.pubsub() as pubsub:  # type: ignore[no-untyped-call]
            try:
                for channel in self.channels:
                    subscribe = pubsub.psubscribe if "*" in channel else pubsub.subscribe
                    subscribe(channel)
                    pubsub.parse_response(block=True, timeout=patience_s)
            except NoPermissionError as exc:
                yield f"{safe_message(exc)}: SUBSCRIBE {channel}"


def _denied_in_a_transaction(client: "redis.Redis", commands: list[Command]) -> Iterator[str]:
    """Yield the rights that Redis denies when it queues commands, which are then discarded."""
    connection = client.connection_pool.get_connection()
    try:
        # Await the answer before sending the commands: outside a transaction Redis would run them.
        connection.send_command("MULTI")  # type: ignore[no-untyped-call]
        connection.read_response()
        queued = [*commands, ("DISCARD",)]
        connection.send_packed_command(connection.pack_commands(queued))  # type: ignore[no-untyped-call]
        for command in queued:
            try:
                connection.read_response()
            except NoPermissionError as exc:
                yield f"{safe_message(exc)}: {' '.join(map(str, command[:2]))}"
            except ResponseError:
                continue  # for example, a Redis that takes no writes now
    except NoPermissionError as exc:
        yield f"{safe_message(exc)}: MULTI"
    except ResponseError:
        return
    except GeneratorExit:
        connection.disconnect()  # type: ignore[no-untyped-call]  # it still has unread answers
        raise
    finally:
        client.connection_pool.release(connection)


def _on(key: str, *several: tuple[Command, ...]) -> list[Command]:
    """Return these commands with a key as their first argument."""
    return [(name, key, *rest) for commands in several for name, *rest in commands]


def broker_rights(settings: Settings, db: int) -> Rights:
    """Return the rights for the messages.

    Args:
        settings: The settings, which determine the queues.
        db: The number of the database, which is part of the channels' names.
    """
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
    writing = _on("unacked", _OF_TEXTS, _OF_HASHES_AND_SETS, _OF_LISTS)
    writing += [("ZUNIONSTORE", "unacked_index", 1, "unacked_index"), *_scripts("unacked")]
    return Rights(commands, writing, [f"/{db}.celery.pidbox", f"/{db}.celeryev/worker.*"])


def result_rights() -> Rights:
    """Return the rights for the results."""
    name = "celery-task-meta-check"
    commands: list[Command] = [
        ("GET", name),
        ("MGET", name),
        ("DEL", name),
        ("EVAL", "return 1", 1, name),
        ("PUBLISH", name, ""),
    ]
    return Rights(commands, [*_on(name, _OF_TEXTS), *_scripts(name)], [name])


def pool_rights(namespace: str) -> Rights:
    """Return the rights for the state of the keys, and for the other data of the pool's Redis."""
    stream = f"{namespace}:stream:check"
    tagged = f"{{{namespace}:{next(iter(SERVICES))}}}"
    commands: list[Command] = [
        ("EVAL", "return redis.call('TIME')", 1, tagged),
        ("SCRIPT", "EXISTS", "0" * 40),
        ("XREVRANGE", stream, "+", "-", "COUNT", 1),
        ("XTRIM", stream, "MAXLEN", 0),
        ("PEXPIRE", stream, 1),
        ("MGET", f"{namespace}:cancelled:check"),
        ("DEL", f"{namespace}:cancelled:check"),
    ]
    channels = [*(f"{{{namespace}:{name}}}:wake" for name in SERVICES), f"{namespace}:cancelled"]
    writing = _on(tagged, _OF_TEXTS, _OF_HASHES_AND_SETS, _OF_THE_POOL)
    return Rights(commands, [*writing, *_scripts(tagged)], channels)


def _scripts(key: str) -> list[Command]:
    return [("EVALSHA", "0" * 40, 1, key), ("TIME",)]
