"""What a start says of a Redis by what that answers, without one."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from redis.exceptions import (
    AuthenticationError,
    MovedError,
    NoPermissionError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as LostError

from config.errors import SettingsError
from config.settings import settings_from
from worker.aio.sentinels import UnknownPrimary
from worker.startup import redis as start_redis
from worker.startup import redis_rights
from worker.startup.redis_rights import CLUSTER, Rights

DENIED = NoPermissionError("this user has no permissions")
NOPERM = "this user has no permissions"


class _Client:
    """A Redis that answers commands, queued commands and subscriptions as it is told."""

    def __init__(self, **answers: Any) -> None:
        self.answers, self.sent = answers, list[Any]()
        self.connection_pool = self
        self.released = self.disconnected = 0
        self._queued: list[Any] = []

    # a pipeline
    def pipeline(self, *, transaction: bool) -> Any:
        assert not transaction
        return self

    def execute_command(self, *command: Any) -> None:
        self.sent.append(command)

    def execute(self, *, raise_on_error: bool) -> list[Any]:
        assert not raise_on_error
        return [self.answers.get(command[0]) for command in self.sent]

    # a connection
    def get_connection(self) -> Any:
        return self

    def release(self, _: Any) -> None:
        self.released += 1

    def disconnect(self) -> None:
        self.disconnected += 1

    def send_command(self, *command: Any) -> None:
        self._queued = [command]

    def pack_commands(self, commands: list[Any]) -> list[Any]:
        return commands

    def send_packed_command(self, commands: list[Any]) -> None:
        self._queued = list(commands)

    def read_response(self) -> str:
        name = self._queued.pop(0)[0]
        if (error := self.answers.get(f"queue {name}")) is not None:
            raise error
        return "QUEUED"

    # a subscription
    def pubsub(self) -> Any:
        return self

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None: ...

    def subscribe(self, channel: str) -> None:
        self.sent.append(("SUBSCRIBE", channel))

    def psubscribe(self, channel: str) -> None:
        self.sent.append(("PSUBSCRIBE", channel))

    def parse_response(self, *, block: bool, timeout: float) -> None:
        assert (block, timeout) == (True, 5.0)
        if (error := self.answers.get(f"hear {self.sent[-1][1]}")) is not None:
            raise error


def rights() -> Rights:
    return Rights(
        [("GET", "name"), ("EVAL", "return 1", 1, "of the script")],
        [("SET", "name", 0), ("TIME",)],
        ["plain", "all.*"],
    )


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({}, []),
        ({"GET": DENIED}, [f"{NOPERM}: GET name"]),
        ({"EVAL": DENIED}, [f"{NOPERM}: EVAL of the script"]),
        ({"GET": ResponseError("WRONGTYPE")}, []),
        ({"GET": MovedError("7 127.0.0.1:7001")}, [f"7 127.0.0.1:7001: it {CLUSTER}"]),
        ({"queue SET": DENIED}, [f"{NOPERM}: SET name"]),
        ({"queue TIME": DENIED}, [f"{NOPERM}: TIME"]),
        ({"queue SET": ResponseError("READONLY"), "queue TIME": DENIED}, [f"{NOPERM}: TIME"]),
        ({"queue MULTI": DENIED}, [f"{NOPERM}: MULTI"]),
        ({"queue MULTI": ResponseError("odd"), "queue SET": DENIED}, []),
        ({"hear plain": DENIED}, [f"{NOPERM}: SUBSCRIBE plain"]),
        ({"hear all.*": DENIED}, [f"{NOPERM}: SUBSCRIBE all.*"]),
    ],
)
def test_what_redis_denies_is_named_with_its_command_and_key(
    answers: dict[str, Any], said: list[str]
) -> None:
    client: Any = _Client(**answers)
    assert list(rights().denied(client, patience_s=5.0)) == said
    assert client.released == 1
    assert client.disconnected == 0, "each answer was read"
    if not said:
        assert client.sent[-2:] == [("SUBSCRIBE", "plain"), ("PSUBSCRIBE", "all.*")]


def test_a_connection_whose_answers_are_not_read_is_closed() -> None:
    client: Any = _Client(**{"queue SET": DENIED})
    found = redis_rights._denied_in_a_transaction(client, [("SET", "name", 0), ("TIME",)])
    assert next(found) == f"{NOPERM}: SET name"
    found.close()  # type: ignore[attr-defined]
    assert (client.disconnected, client.released) == (1, 1)


def test_the_rights_of_two_uses_add_up() -> None:
    both = rights()
    both.add(Rights([("PING", "a")], [("DEL", "b")], ["c"]))
    assert both.commands[-1] == ("PING", "a")
    assert both.writing[-1] == ("DEL", "b")
    assert both.channels == ["plain", "all.*", "c"]


# --- how Redis is asked


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A Redis with some `info`, `denied` rights or an `error`; `urls` has whom was asked."""
    found = SimpleNamespace(info={}, denied=[], error=None, rights=[], closed=0, options=[])

    def raise_or(value: Any) -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    class Client:
        def ping(self) -> None:
            raise_or(found.error)

        def info(self) -> Any:
            return raise_or(found.info)

        def close(self) -> None:
            found.closed += 1

    def denied(self: Rights, _: Any, *, patience_s: float) -> Any:
        assert patience_s == 5.0
        found.rights.append(self)
        return iter(found.denied)

    def pool(**options: Any) -> str:
        found.options.append(options)
        return "the connections"

    monkeypatch.setattr(redis, "ConnectionPool", pool)
    monkeypatch.setattr(redis.Redis, "from_pool", lambda _: Client())
    monkeypatch.setattr(Rights, "denied", denied)
    monkeypatch.setattr(start_redis, "refusal_at", lambda _, exc: start_redis.refusal_of(exc))
    return found


ONE = {"REDIS_URL": "redis://:canary@h:6379/0"}
AT = "REDIS_URL: Redis at redis://:***@h:6379/0"
FULL = {"maxmemory_policy": "allkeys-lru", "maxmemory": "5"}


@pytest.mark.parametrize(
    ("answers", "said", "told"),
    [
        ({}, None, []),
        ({"info": DENIED}, None, []),
        ({"info": {"redis_mode": "sentinel"}}, "is a sentinel: write sentinel://", []),
        ({"info": {"server_mode": "sentinel"}}, "is a sentinel: write sentinel://", []),
        ({"info": {"cluster_enabled": 1}, "denied": ["x"]}, CLUSTER, []),
        ({"info": {"cluster_enabled": 0}}, None, []),
        (
            {"denied": ["NOPERM: GET x", "and more"]},
            (
                "denies this worker a right (NOPERM: GET x); docs/operations.md lists the "
                "rights that "
                "a worker needs."
            ),
            [],
        ),
        (
            {"info": FULL},
            None,
            [
                (
                    "Redis may evict jobs, results and the state of the keys when it is full: its "
                    "maxmemory-policy is allkeys-lru. Set it to noeviction; then producers get an "
                    "error instead."
                )
            ],
        ),
        ({"info": FULL | {"maxmemory": "0"}}, None, []),
        ({"info": FULL | {"maxmemory_policy": "noeviction"}}, None, []),
        ({"info": {"maxmemory": "1"}}, None, []),
        ({"error": LostError("refused")}, None, ["cannot check Redis at {} yet: refused"]),
        ({"error": OSError("odd")}, None, ["cannot check Redis at {} yet: odd"]),
        (
            {"error": AuthenticationError("WRONGPASS no.")},
            "does not let this worker in: WRONGPASS no.",
            [],
        ),
        ({"error": MovedError("7 127.0.0.1:7001")}, CLUSTER, []),
        (
            {"error": UnknownPrimary("nobody knows it")},
            "cannot be found: nobody knows it; the option master_name of the URL names it.",
            [],
        ),
        (
            {"error": ResponseError("ERR DB index is out of range")},
            (
                "does not have the database that stands at the end of the URL: it numbers those "
                "that "
                "it has from 0."
            ),
            [],
        ),
        (
            {"error": ResponseError("unknown command 'SENTINEL', with args")},
            "is not a sentinel: write redis://, or name the port of a sentinel.",
            [],
        ),
        (
            {"error": ResponseError("unknown command `INFO`")},
            "has no command INFO: it is a sentinel, or the command is renamed.",
            [],
        ),
        ({"error": RedisError("odd")}, None, ["cannot check Redis at {} yet: odd"]),
    ],
)
def test_a_start_ends_where_redis_cannot_serve_and_waits_where_it_is_away(
    asked: Any,
    caplog: pytest.LogCaptureFixture,
    answers: dict[str, Any],
    said: str | None,
    told: list[str],
) -> None:
    caplog.set_level(logging.DEBUG, "worker.startup.redis")
    vars(asked).update(answers)
    settings = settings_from(ONE)
    if said is None:
        start_redis.check_redis(settings)
    else:
        with pytest.raises(SettingsError) as caught:
            start_redis.check_redis(settings)
        [sentence] = caught.value.sentences
        assert sentence.startswith(f"{AT} {said}")
        assert sentence.count(".") == sentence.rstrip(".").count(".") + 1
    assert caplog.messages == [line.format("redis://:***@h:6379/0") for line in told]
    assert asked.closed == 1
    [options] = asked.options
    assert (options["socket_timeout"], options["socket_connect_timeout"]) == (5.0, 5.0)
    assert (options["decode_responses"], options["password"]) == (True, "canary")


def test_each_redis_is_asked_once_for_all_that_it_is_used_for(asked: Any) -> None:
    start_redis.check_redis(settings_from(ONE))
    [alone] = asked.rights
    assert {command[0] for command in alone.commands} >= {"HDEL", "PUBLISH", "SCRIPT"}
    asked.rights.clear()
    three = ONE | {
        "CELERY_BROKER_URL": "redis://b:6379/3", "CELERY_RESULT_BACKEND": "redis://r:6379/0"
    }  # fmt: skip
    start_redis.check_redis(settings_from(three))
    assert len(asked.rights) == 3
    assert "/3.celery.pidbox" in asked.rights[0].channels
    asked.rights.clear()
    start_redis.check_redis(settings_from(ONE | {"CELERY_BROKER_URL": "amqp://u:p@h/v"}))
    names = {command[0] for one in asked.rights for command in one.commands}
    assert "LREM" not in names, "RabbitMQ has the messages"
    assert "SCRIPT" in names


def test_a_redis_is_named_by_the_variable_that_says_where_it_is(asked: Any) -> None:
    asked.info = {"cluster_enabled": 1}
    with pytest.raises(SettingsError) as caught:
        start_redis.check_redis(settings_from(ONE | {"CELERY_BROKER_URL": "redis://b:6379/3"}))
    names = [sentence.partition(":")[0] for sentence in caught.value.sentences]
    assert names == ["CELERY_BROKER_URL", "REDIS_URL"]


@pytest.mark.parametrize("linked", ["cause", "context"])
def test_what_led_to_an_error_says_why_redis_refuses(linked: str) -> None:
    lost = LostError("connection closed")
    setattr(lost, f"__{linked}__", AuthenticationError("WRONGPASS"))
    found = start_redis.refusal_of(lost)
    assert found is not None
    assert found.startswith("does not let this worker in: WRONGPASS")
    lost.__cause__ = lost.__context__ = None
    assert start_redis.refusal_of(lost) is None


def test_errors_that_led_to_each_other_are_looked_at_once() -> None:
    one, other = LostError("one"), LostError("other")
    one.__cause__, other.__cause__ = other, one
    assert start_redis._causes_of(one) == [one, other]


@pytest.mark.parametrize(
    "asked", ["unusable_files", "refusal_of", "mismatched_tls", "unwanted_certificate"]
)
def test_each_thing_that_may_explain_a_lost_connection_is_asked(
    monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    for name in ("unusable_files", "refusal_of", "mismatched_tls", "unwanted_certificate"):
        said = f"why, by {name}" if name == asked else None
        monkeypatch.setattr(start_redis, name, lambda _, said=said: said)
    assert start_redis.refusal_at("rediss://127.0.0.1:1/0", LostError()) == f"why, by {asked}"
