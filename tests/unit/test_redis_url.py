"""One URL of Redis serves broker, results and pool, with whatever options it has.

Or is refused with a sentence.
"""

from typing import Any

import pytest
from kombu import Connection
from redis.asyncio import BlockingConnectionPool

from config.errors import SettingsError
from config.redis_url import ALL_SCHEMES, RedisUrl
from config.settings import settings_from

CANARY = "canary-7d1f"


# The URL; the database, and what the broker's and the pool's connections are told beside it.
@pytest.mark.parametrize(
    ("url", "db", "broker", "pool"),
    [
        ("redis://h", 0, {}, {}),
        ("redis://h/", 0, {}, {}),
        ("redis://:p%40ss@h:1/3", 3, {}, {}),
        ("redis://h?db=2", 2, {}, {}),
        ("redis://h/1?db=2", 2, {}, {}),  # as redis-py has it
        ("redis://h/0?socket_timeout=5", 0, {"socket_timeout": 5.0}, {"socket_timeout": 5.0}),
        (
            "redis://h/0?protocol=3&client_name=kw",
            0,
            {"client_name": "kw"},
            {"protocol": 3, "client_name": "kw"},
        ),
        ("redis://h/0?retry_on_timeout=yes", 0, {}, {"retry_on_timeout": True}),
        (
            "redis://h/0?health_check_interval=9",
            0,
            {"health_check_interval": 9},
            {"health_check_interval": 9},
        ),
        ("rediss://h/0?ssl_ca_certs=/a%20ca.crt", 0, {}, {"ssl_ca_certs": "/a ca.crt"}),
        ("redis+socket:///run/redis.sock?db=4", 4, {}, {"path": "/run/redis.sock"}),
        (
            "redis+socket:///run/redis.sock?socket_keepalive=1&socket_timeout=3",
            0,
            {"socket_timeout": 3.0},
            {},
        ),
    ],
)
def test_a_url_with_options_is_read_alike_by_all_three(
    url: str, db: int, broker: dict[str, Any], pool: dict[str, Any]
) -> None:
    read = RedisUrl.read(url, schemes=ALL_SCHEMES)
    assert read.db == db
    assert read.for_broker[1] == broker
    assert Connection(read.for_broker[0]).transport_cls.startswith("redis")
    told = BlockingConnectionPool.from_url(read.for_pool).connection_kwargs
    assert told["db"] == db
    assert {name: told[name] for name in pool} == pool
    given = settings_from(
        {"CELERY_RESULT_BACKEND": f"worker.aio.backend:RedisBackend+{read.for_results}"}
    )
    assert RedisUrl.read(given.result_backend_url.get_secret_value(), schemes=ALL_SCHEMES).db == db


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (
            "redis://h/abc",
            "REDIS_URL must end with the number of a database, as in redis://host:6379/0.",
        ),
        ("redis://h/0/", "REDIS_URL must end with the number of a database"),
        ("redis://h//", "REDIS_URL must end with the number of a database"),
        (
            f"redis://h/0?{CANARY}=1",
            "REDIS_URL has an option that is not known: known are db, socket_timeout,",
        ),
        ("redis://h/0?timeout=5", "REDIS_URL has an option that is not known"),
        (
            "redis://h/0?socket_timeout=0.5",
            "REDIS_URL has the option socket_timeout, which must be a number of",
        ),
        (
            "redis://h/0?socket_timeout=x",
            "REDIS_URL has the option socket_timeout, which must be a number of",
        ),
        (
            "redis://h/0?db=-1",
            "REDIS_URL has the option db, which must be a whole number from 0 on.",
        ),
        ("redis://h/0?protocol=4", "REDIS_URL has the option protocol, which must be one of 2, 3."),
        (
            "redis://h/0?socket_keepalive=maybe",
            "REDIS_URL has the option socket_keepalive, which must be true or",
        ),
        (
            "redis://h/0?ssl_ca_certs=/ca.crt",
            "REDIS_URL has the option ssl_ca_certs, which only rediss:// takes.",
        ),
        (
            "rediss://h/0?ssl_cert_reqs=maybe",
            "REDIS_URL has the option ssl_cert_reqs, which must be one of required,",
        ),
        (
            "redis://:pass#word@h/0",
            "REDIS_URL has no valid host and port; percent-encode special characters",
        ),
        (
            "redis://h/0#x",
            "REDIS_URL must not contain #; percent-encode special characters of the password.",
        ),
        (
            "sentinel://h:26379/0",
            "REDIS_URL names a Redis Sentinel, which is not supported: give the address of the",
        ),
    ],
)
def test_a_url_that_cannot_work_is_refused_with_a_sentence(url: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_from({"REDIS_URL": url})
    [said] = caught.value.sentences
    assert said.startswith(sentence)
    assert CANARY not in said


@pytest.mark.parametrize(
    "variable", ["CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "KEYWHEEL_POOL_URL"]
)
def test_a_sentinel_is_refused_for_each_of_the_three(variable: str) -> None:
    with pytest.raises(
        SettingsError, match=f"^{variable} names a Redis Sentinel, which is not supported"
    ):
        settings_from({variable: "sentinel://a:26379;sentinel://b:26379"})
