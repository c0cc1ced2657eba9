"""One URL of Redis, with any options, serves broker, results and pool.

A URL that cannot do so is refused with a message.
"""

from typing import Any

import pytest
from kombu import Connection
from redis.asyncio import BlockingConnectionPool

from config.errors import SettingsError
from config.redis_url import ALL_SCHEMES, RedisUrl
from config.settings import settings_from
from worker.aio.connections import SentinelTlsConnection, parameters_of

CANARY = "canary-7d1f"


# The URL; the database, and the other options of the broker's and of the pool's connections.
@pytest.mark.parametrize(
    ("url", "db", "broker", "pool"),
    [
        ("redis://h", 0, {}, {}),
        ("redis://h/", 0, {}, {}),
        ("redis://:p%40ss@h:1/3", 3, {}, {}),
        ("redis://h?db=2", 2, {}, {}),
        ("redis://h/1?db=2", 2, {}, {}),  # redis-py's form
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
def test_a_url_with_options_is_read_in_the_same_way_by_all_three(
    url: str, db: int, broker: dict[str, Any], pool: dict[str, Any]
) -> None:
    read = RedisUrl.read(url, schemes=ALL_SCHEMES)
    assert read.db == db
    assert read.for_broker[1] == broker
    assert Connection(read.for_broker[0]).transport_cls.startswith("redis")
    parameters = BlockingConnectionPool.from_url(read.for_pool).connection_kwargs
    assert parameters["db"] == db
    assert {name: parameters[name] for name in pool} == pool
    settings = settings_from(
        {"CELERY_RESULT_BACKEND": f"worker.aio.backend:RedisBackend+{read.for_results}"}
    )
    assert (
        RedisUrl.read(settings.result_backend_url.get_secret_value(), schemes=ALL_SCHEMES).db == db
    )


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
            "REDIS_URL has an unknown option: the options are db, socket_timeout,",
        ),
        ("redis://h/0?timeout=5", "REDIS_URL has an unknown option"),
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
            "REDIS_URL has the option db, which must be a whole number of at least 0.",
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
            "REDIS_URL must say which primary the sentinels watch: sentinel://host:26379,host:26379",
        ),
        (
            "sentinel://a,b:x/0?master_name=m",
            "REDIS_URL has the option sentinels, which has no valid host and port",
        ),
        (
            "sentinel://a/0?master_name=m&ssl_ca_certs=/ca.crt",
            "REDIS_URL has the option ssl_ca_certs, which also needs ssl=true.",
        ),
        (
            "redis://a/0?master_name=m",
            "REDIS_URL has an unknown option",
        ),
    ],
)
def test_a_url_that_cannot_work_is_refused_with_a_sentence(url: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_from({"REDIS_URL": url})
    [refusal] = caught.value.sentences
    assert refusal.startswith(sentence)
    assert CANARY not in refusal


# Our form, Celery's form, and the option alone.
@pytest.mark.parametrize(
    "url",
    [
        f"sentinel://u:{CANARY}@a:1,b:2,c/3?master_name=m&sentinel_password=other",
        f"sentinel://u:{CANARY}@a:1;sentinel://u:{CANARY}@b:2;sentinel://c/3?sentinel_password=other&master_name=m",
        f"sentinel://u:{CANARY}@a:1/3?sentinels=b:2,c&master_name=m&sentinel_password=other",
    ],
)
def test_sentinels_are_read_in_the_same_way_by_all_three(url: str) -> None:
    settings = settings_from({"REDIS_URL": url})
    assert CANARY not in str(settings.redis_url)
    assert {CANARY, "other"} <= set(settings.secrets)
    read = RedisUrl.read(settings.redis_url.get_secret_value(), schemes=ALL_SCHEMES)
    sentinels = [("a", 1), ("b", 2), ("c", 26379)]
    broker_url, options = read.for_broker
    assert broker_url == f"sentinel://u:{CANARY}@a:1/3"
    assert options == {
        "sentinels": sentinels,
        "master_name": "m",
        "sentinel_kwargs": {"password": "other"},
        "socket_timeout": 5.0,
        "health_check_interval": 4,
    }
    for by_url in (read.for_pool, read.for_results):
        parameters = parameters_of(by_url)
        assert repr(parameters["sentinels"]) == f"<Sentinels of m at {tuple(sentinels)}>"
        assert (parameters["db"], parameters["username"], parameters["password"]) == (
            3,
            "u",
            CANARY,
        )
    environ = {"CELERY_RESULT_BACKEND": f"worker.aio.backend:RedisBackend+{read.for_results}"}
    again = settings_from(environ).result_backend_url
    assert (
        RedisUrl.read(again.get_secret_value(), schemes=ALL_SCHEMES).for_broker == read.for_broker
    )


def test_tls_to_redis_is_tls_to_the_sentinels_unless_the_url_says_otherwise() -> None:
    url = "sentinel://a:1/0?master_name=m&ssl=true&ssl_ca_certs=/ca.crt"
    for more, to_sentinels in (
        ("", {"ssl": True, "ssl_ca_certs": "/ca.crt"}),
        ("&sentinel_ssl=false", {}),
    ):
        read = RedisUrl.read(url + more, schemes=ALL_SCHEMES)
        broker_url, options = read.for_broker
        assert broker_url == "sentinel://a:1/0?ssl_cert_reqs=required&ssl_ca_certs=%2Fca.crt"
        assert options["sentinel_kwargs"] == to_sentinels
        parameters = parameters_of(read.for_pool, asynchronous=True)
        assert parameters["connection_class"] is SentinelTlsConnection
        assert parameters["ssl_ca_certs"] == "/ca.crt"
