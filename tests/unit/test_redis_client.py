"""The clients of a process: what their connections understand."""

import ssl

import pytest

from config.settings import Settings
from worker.redis.client import connect


# What may stand in the URL, as Celery takes it too, and what it means.
@pytest.mark.parametrize(
    ("query", "meaning"),
    [
        ("", ssl.CERT_REQUIRED),  # checked by default
        ("?ssl_cert_reqs=required", ssl.CERT_REQUIRED),  # redis-py's name
        (
            "?ssl_cert_reqs=CERT_REQUIRED",
            ssl.CERT_REQUIRED,
        ),  # OpenSSL's name, as in Celery's documentation
        ("?ssl_cert_reqs=CERT_NONE", ssl.CERT_NONE),  # as some hosters give it
        ("?db=1&ssl_cert_reqs=CERT_OPTIONAL", ssl.CERT_OPTIONAL),  # behind something else
    ],
)
async def test_the_pool_takes_the_same_tls_url_as_celery(
    query: str, meaning: ssl.VerifyMode
) -> None:
    client = connect(Settings(redis_url=f"rediss://:pw-CERT_NONE@127.0.0.1:6390/0{query}"))  # type: ignore[arg-type]
    connection = client.connection_pool.make_connection()
    assert connection.ssl_context.cert_reqs is meaning
    assert connection.password == "pw-CERT_NONE"
    await client.aclose()
