"""Redis and sentinels behind TLS of a private authority, which requires client certificates."""

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from celery import Celery
from flower.utils.broker import Broker

from config.celery import celery_config
from config.current import get_settings
from config.errors import SettingsError
from config.settings import Settings, settings_from
from sandbox.redis import EmbeddedRedis
from tests.failover import NAME, SENTINEL_PASSWORD, sentinel
from tests.tls import Authority, handshakes, tls_before
from worker.dashboard.broker import use_our_broker_client
from worker.redis.client import connect
from worker.startup.redis import check_redis
from worker.startup.redis_tls import mismatched_tls

pytestmark = pytest.mark.skipif(
    not shutil.which("openssl"), reason="openssl makes the certificates"
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def urls(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[dict[str, str]]:
    """The addresses of a Redis and of its sentinel, without the options of TLS."""
    folder, context = tmp_path_factory.mktemp("tls"), authority.server_context()
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedRedis(data_dir=folder / "redis"))
        redis_port = stack.enter_context(tls_before(server.port, context))
        # It names the port with TLS to its clients, and itself connects to the server without TLS.
        watching = stack.enter_context(sentinel(folder / "sentinel", watched=redis_port))
        sentinel_port = stack.enter_context(tls_before(watching, context))
        yield {
            "rediss": f"rediss://127.0.0.1:{redis_port}/0?",
            "sentinel": f"sentinel://127.0.0.1:{sentinel_port}/0?ssl=true&master_name={NAME}"
            f"&sentinel_password={SENTINEL_PASSWORD}&",
        }


async def use(settings: Settings) -> None:
    async with connect(settings) as client:
        assert await client.set("key", "of the pool")


def publish_and_count(settings: Settings) -> int:
    with Celery(set_as_current=False) as app:
        app.conf.update(celery_config(settings))
        app.backend.client.set("key", "of the results")
        assert app.backend.get("key") == b"of the results"
        app.send_task("any", queue="ai")
        with app.connection_for_read() as connection:
            size: int = connection.channel()._size("ai")
        app.pool.force_close_all()
        app.backend.client.connection_pool.disconnect()
    return size


@pytest.mark.parametrize("kind", ["rediss", "sentinel"])
def test_every_role_comes_through_with_a_client_certificate(
    urls: dict[str, str], authority: Authority, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{urls[kind]}{authority.trust}&{authority.client}"
    settings = settings_from({"REDIS_URL": url})
    check_redis(settings)
    asyncio.run(use(settings))
    waiting = publish_and_count(settings)
    assert waiting > 0
    # Flower's Broker page, too, which does not read the options of a URL itself.
    monkeypatch.setenv("REDIS_URL", url)
    get_settings.cache_clear()
    use_our_broker_client()
    broker = Broker(url, broker_options={}, broker_use_ssl=None)
    [ai] = asyncio.run(broker.queues(["ai"]))
    assert ai["messages"] == waiting
    get_settings.cache_clear()


def test_tls_at_one_end_alone_is_named(authority: Authority, tmp_path: Path) -> None:
    """Neither connection fails by itself: a handshake with a plain Redis only times out."""
    with ExitStack() as stack:
        plain = stack.enter_context(EmbeddedRedis(data_dir=tmp_path / "redis"))
        watching = stack.enter_context(sentinel(tmp_path / "sentinel", watched=plain.port))
        tls = stack.enter_context(handshakes(authority.server_context()))
        query = f"/0?master_name={NAME}&sentinel_password={SENTINEL_PASSWORD}"
        for url, words in (
            (
                f"sentinel://127.0.0.1:{watching}{query}&ssl=true",
                "has sentinels without TLS: set sentinel_ssl=false",
            ),
            (
                f"sentinel://127.0.0.1:{watching}{query}&ssl=true&sentinel_ssl=false",
                "has a primary without TLS: set ssl=false, and sentinel_ssl=false",
            ),
            (
                f"sentinel://127.0.0.1:{tls}{query}",
                "has sentinels with TLS: set sentinel_ssl=true",
            ),
        ):
            assert (mismatched_tls(url) or "").startswith(words)


def test_certificates_that_cannot_work_end_the_start_with_a_sentence(
    urls: dict[str, str], authority: Authority
) -> None:
    ca, client = authority.trust, authority.client
    with handshakes(authority.server_context()) as port:
        strict = f"rediss://127.0.0.1:{port}/0?"
        strict_sentinel = f"sentinel://127.0.0.1:{port}/0?ssl=true&master_name=m&"
        for url, words in (
            (strict + ca, "does not accept this worker's certificate, or requires one"),
            (strict_sentinel + ca, "does not accept this worker's certificate, or requires one"),
            (urls["rediss"] + client, "shows a certificate that is not trusted"),
            (urls["sentinel"] + client, "shows a certificate that is not trusted"),
            (
                f"{urls['rediss'].replace('127.0.0.1', 'localhost')}{ca}&{client}",
                "not valid for 'localhost'.: name the host as the certificate does",
            ),
            (f"redis://127.0.0.1:{port}/0", "answers with TLS only on this port: write rediss://"),
            (
                f"{strict}{client}&ssl_ca_certs=/none.pem",
                "URL names .No such file",
            ),
            (f"{strict}{ca}&{client.replace('client.pem', 'server.pem')}", "KEY_VALUES_MISMATCH"),
        ):
            with pytest.raises(SettingsError, match=words):
                check_redis(settings_from({"REDIS_URL": url}))
