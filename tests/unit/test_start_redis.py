"""The messages of a start about Redis, by its answers; without a Redis."""

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
def redis_answers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A Redis with some `info`, `denied` rights or an `error`; `rights` has the checked rights."""
    checked = SimpleNamespace(info={}, denied=[], error=None, rights=[], closed=0, options=[])

    def raise_or(value: Any) -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    class Client:
        def ping(self) -> None:
            raise_or(checked.error)

        def info(self) -> Any:
            return raise_or(checked.info)

        def close(self) -> None:
            checked.closed += 1

    def denied(self: Rights, _: Any, *, patience_s: float) -> Any:
        assert patience_s == 5.0
        checked.rights.append(self)
        return iter(checked.denied)

    def pool(**options: Any) -> str:
        checked.options.append(options)
        return "the connections"

    monkeypatch.setattr(redis, "ConnectionPool", pool)
    monkeypatch.setattr(redis.Redis, "from_pool", lambda _: Client())
    monkeypatch.setattr(Rights, "denied", denied)
    monkeypatch.setattr(start_redis, "refusal_at", lambda _, exc: start_redis.refusal_of(exc))
    return checked


ONE = {"REDIS_URL": "redis://:canary@h:6379/0"}
AT = "REDIS_URL: Redis at redis://:***@h:6379/0"
FULL = {"maxmemory_policy": "allkeys-lru", "maxmemory": "5"}


@pytest.mark.parametrize(
    ("answers", "refusal", "warnings"),
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
                "does not have the database at the end of the URL: the number of its first "
                "database is 0."
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
def test_a_start_ends_if_redis_cannot_serve_and_waits_if_it_is_down(
    redis_answers: Any,
    caplog: pytest.LogCaptureFixture,
    answers: dict[str, Any],
    refusal: str | None,
    warnings: list[str],
) -> None:
    caplog.set_level(logging.DEBUG, "worker.startup.redis")
    vars(redis_answers).update(answers)
    settings = settings_from(ONE)
    if refusal is None:
        start_redis.check_redis(settings)
    else:
        with pytest.raises(SettingsError) as caught:
            start_redis.check_redis(settings)
        [sentence] = caught.value.sentences
        assert sentence.startswith(f"{AT} {refusal}")
        assert sentence.count(".") == sentence.rstrip(".").count(".") + 1
    assert caplog.messages == [line.format("redis://:***@h:6379/0") for line in warnings]
    assert redis_answers.closed == 1
    [options] = redis_answers.options
    assert (options["socket_timeout"], options["socket_connect_timeout"]) == (5.0, 5.0)
    assert (options["decode_responses"], options["password"]) == (True, "canary")


def test_each_redis_is_checked_once_for_all_its_uses(redis_answers: Any) -> None:
    start_redis.check_redis(settings_from(ONE))
    [alone] = redis_answers.rights
    assert {command[0] for command in alone.commands} >= {"HDEL", "PUBLISH", "SCRIPT"}
    redis_answers.rights.clear()
    three = ONE | {
        "CELERY_BROKER_URL": "redis://b:6379/3", "CELERY_RESULT_BACKEND": "redis://r:6379/0"
    }  # fmt: skip
    start_redis.check_redis(settings_from(three))
    assert len(redis_answers.rights) == 3
    assert "/3.celery.pidbox" in redis_answers.rights[0].channels
    redis_answers.rights.clear()
    start_redis.check_redis(settings_from(ONE | {"CELERY_BROKER_URL": "amqp://u:p@h/v"}))
    names = {command[0] for rights in redis_answers.rights for command in rights.commands}
    assert "LREM" not in names, "RabbitMQ has the messages"
    assert "SCRIPT" in names


def test_a_redis_is_named_by_the_variable_that_says_where_it_is(redis_answers: Any) -> None:
    redis_answers.info = {"cluster_enabled": 1}
    with pytest.raises(SettingsError) as caught:
        start_redis.check_redis(settings_from(ONE | {"CELERY_BROKER_URL": "redis://b:6379/3"}))
    names = [sentence.partition(":")[0] for sentence in caught.value.sentences]
    assert names == ["CELERY_BROKER_URL", "REDIS_URL"]


@pytest.mark.parametrize("linked", ["cause", "context"])
def test_the_cause_of_an_error_says_why_redis_refuses(linked: str) -> None:
    lost = LostError("connection closed")
    setattr(lost, f"__{linked}__", AuthenticationError("WRONGPASS"))
    refusal = start_redis.refusal_of(lost)
    assert refusal is not None
    assert refusal.startswith("does not let this worker in: WRONGPASS")
    lost.__cause__ = lost.__context__ = None
    assert start_redis.refusal_of(lost) is None


def test_errors_that_caused_each_other_are_looked_at_once() -> None:
    first, second = LostError("one"), LostError("other")
    first.__cause__, second.__cause__ = second, first
    assert start_redis._causes_of(first) == [first, second]


@pytest.mark.parametrize(
    "explains", ["unusable_files", "refusal_of", "mismatched_tls", "unwanted_certificate"]
)
def test_each_possible_cause_of_a_lost_connection_is_looked_for(
    monkeypatch: pytest.MonkeyPatch, explains: str
) -> None:
    for name in ("unusable_files", "refusal_of", "mismatched_tls", "unwanted_certificate"):
        refusal = f"why, by {name}" if name == explains else None
        monkeypatch.setattr(start_redis, name, lambda _, refusal=refusal: refusal)
    assert start_redis.refusal_at("rediss://127.0.0.1:1/0", LostError()) == f"why, by {explains}"
