import gc
import importlib
import os
import uuid
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import redis

from sandbox.redis import EmbeddedRedis
from tests.processes import hang_up
from tests.workers.aio.aio_harness import APP, WorkerProcess, worker_processes


@pytest.fixture(scope="session")
def aio_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A separate server, because its connections are cut."""
    with EmbeddedRedis(data_dir=tmp_path_factory.mktemp("aio-redis")) as server:
        yield server


@pytest.fixture(scope="session")
def aio(aio_redis: EmbeddedRedis) -> Iterator[ModuleType]:
    """The test app, as a client of the workers."""
    os.environ["AIO_REDIS_URL"] = aio_redis.url
    module = importlib.import_module(APP)
    yield module
    gc.collect()  # results unsubscribe when they are collected, which needs a running server
    hang_up(module.app)
    module.app.close()
    module.store.close()


@pytest.fixture(autouse=True, scope="module")
def _fresh_connections(aio: ModuleType) -> None:
    """Close the client's connections, because the tests of another module may have cut them."""
    hang_up(aio.app)


@pytest.fixture(scope="session")
def store(aio_redis: EmbeddedRedis) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(aio_redis.url, decode_responses=True) as client:
        yield client


@pytest.fixture(scope="module")
def start_worker(
    aio_redis: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., WorkerProcess]]:
    """Starts workers that end with the module."""
    with worker_processes(aio_redis.url, lambda: tmp_path_factory.mktemp("worker")) as start:
        yield start


@pytest.fixture
def journal(store: "redis.Redis") -> Callable[[str], list[str]]:
    """Reads what the jobs wrote under a key."""
    return lambda key: list(store.lrange(f"journal:{key}", 0, -1))


@pytest.fixture
def key() -> str:
    return uuid.uuid4().hex


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A separate server, because the tests change its settings."""
    with EmbeddedRedis(data_dir=tmp_path_factory.mktemp("transport-redis")) as started:
        yield started
