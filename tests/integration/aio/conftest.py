from collections.abc import Iterator

import pytest
import redis
from celery import Celery

from sandbox.redis import EmbeddedRedis
from tests.integration.aio.backend_jobs import Run, result_app, running
from tests.integration.aio.taking_server import Server
from tests.integration.aio.transport_harness import Receiver, receiving
from worker.aio.transport import Channel
from worker.aio.transport.scripts import TAKE


@pytest.fixture(scope="package")
def aio_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A separate server, because its connections are cut."""
    with EmbeddedRedis(data_dir=tmp_path_factory.mktemp("aio-redis")) as server:
        yield server


@pytest.fixture(scope="package")
def store(aio_redis: EmbeddedRedis) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(aio_redis.url, decode_responses=True) as client:
        yield client


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A separate server, because the tests change its settings."""
    with EmbeddedRedis(data_dir=tmp_path_factory.mktemp("transport-redis")) as started:
        yield started


@pytest.fixture
def url(server: EmbeddedRedis) -> str:
    """An empty server that has the taking script, so that the first request is one round trip."""
    server.flush()
    with redis.Redis.from_url(server.url) as client:
        client.script_load(TAKE)
    return server.url


@pytest.fixture
def books(url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        yield client


@pytest.fixture
def receiver(url: str) -> Iterator[Receiver]:
    with receiving(url, prefetch=10) as made:
        made.channel.sharing.add("a")
        yield made


@pytest.fixture
def only_taking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch off the look for tenants, whose occasional commands would be counted, too.

    `test_aio_transport_sharing.py` counts that look.
    """
    monkeypatch.setattr(Channel, "share", lambda _: None)


@pytest.fixture
def queue_server(server: EmbeddedRedis) -> Iterator[Server]:
    server.flush()
    with redis.Redis.from_url(server.url) as client:
        yield Server(client)


@pytest.fixture
def app(aio_redis: EmbeddedRedis) -> Iterator[Celery]:
    with result_app(aio_redis.url) as made:
        yield made


@pytest.fixture
def run(app: Celery) -> Iterator[Run]:
    with running(app) as started:
        yield started
