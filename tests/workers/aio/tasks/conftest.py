"""One worker for all files of this folder; tests/spreading.py keeps them in one process."""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from sandbox.redis import EmbeddedRedis
from tests.workers.aio.aio_harness import WorkerProcess, worker_processes


@pytest.fixture(scope="package")
def worker(
    aio_redis: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    with worker_processes(aio_redis.url, lambda: tmp_path_factory.mktemp("worker")) as start:
        yield start(AIO_QUEUE="aio")


@pytest.fixture
def app(aio: ModuleType, worker: WorkerProcess) -> ModuleType:
    """The tasks, and a worker that runs them."""
    return aio


@pytest.fixture
def inspect(app: ModuleType, worker: WorkerProcess) -> Callable[..., Any]:
    def ask(command: str, **arguments: Any) -> Any:
        replies = app.app.control.broadcast(
            command, destination=[worker.name], arguments=arguments, reply=True, timeout=10, limit=1
        )
        return replies[0][worker.name]

    return ask
