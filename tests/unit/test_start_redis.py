"""What a start says of a Redis by what that answers, without one."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from redis.exceptions import (
    AuthenticationError,
    MovedError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as LostError

from config.errors import SettingsError
from config.settings import settings_from
from tests.unit.answering_redis import DENIED
from worker.aio.sentinels import UnknownPrimary
from worker.startup import redis as start_redis
from worker.startup.redis_rights import CLUSTER, Rights


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
                "denies this worker a right (NOPERM: GET x); docs/redis.md lists the "
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
