import gc
import importlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import redis

from sandbox.redis import EmbeddedRedis

# For the test app and the harness, and for `processes`: test folders are no packages.
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))

from aio_harness import WorkerProcess
from processes import hang_up


@pytest.fixture(scope="package")
def aio_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A server of our own, because its connections are cut."""
    with EmbeddedRedis(data_dir=tmp_path_factory.mktemp("aio-redis")) as server:
        yield server


@pytest.fixture(scope="package")
def aio(aio_redis: EmbeddedRedis) -> Iterator[ModuleType]:
    """The test app, as a client of the workers."""
    os.environ["AIO_REDIS_URL"] = aio_redis.url
    module = importlib.import_module("aio_app")
    yield module
    gc.collect()  # results unsubscribe when they are collected, which needs the server
    hang_up(module.app)
    module.app.close()
    module.store.close()


@pytest.fixture(autouse=True, scope="module")
def _fresh_connections(aio: ModuleType) -> None:
    """The client has no connection left that the tests of another module cut."""
    hang_up(aio.app)


@pytest.fixture(scope="package")
def store(aio_redis: EmbeddedRedis) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(aio_redis.url, decode_responses=True) as client:
        yield client


@pytest.fixture(scope="module")
def start_worker(
    aio_redis: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., WorkerProcess]]:
    """Starts workers that end with the module."""
    workers: list[WorkerProcess] = []

    def start(*arguments: str, ready: bool = True, **environment: str) -> WorkerProcess:
        log = tmp_path_factory.mktemp("worker") / "worker.log"
        worker = WorkerProcess(aio_redis.url, log, *arguments, **environment)
        workers.append(worker)
        return worker.await_ready() if ready else worker

    yield start
    for worker in workers:
        if worker.process.poll() is None:
            worker.signal(signal.SIGTERM)
    for worker in workers:
        try:
            worker.process.wait(10)
        except subprocess.TimeoutExpired:
            worker.close()


@pytest.fixture
def journal(store: "redis.Redis") -> Callable[[str], list[str]]:
    """What the jobs wrote under a key."""
    return lambda key: list(store.lrange(f"journal:{key}", 0, -1))


@pytest.fixture
def key() -> str:
    return uuid.uuid4().hex


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A server of our own: its settings change under the tests."""
    with EmbeddedRedis(data_dir=tmp_path_factory.mktemp("transport-redis")) as started:
        yield started


@pytest.fixture
def url(server: EmbeddedRedis) -> str:
    server.flush()
    return server.url


@pytest.fixture
def books(url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        yield client
