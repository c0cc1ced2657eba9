from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from tests.unit.aio_pool.pool_outcome import Start
from worker.aio.pool import TaskPool


@pytest.fixture
def app() -> Iterator[Celery]:
    app = Celery("unit", broker="memory://", backend="cache+memory://", set_as_current=False)
    yield app
    app.close()


@pytest.fixture
def start(app: Celery) -> Iterator[Start]:
    pools: list[TaskPool] = []

    def start(limit: int = 4, **options: Any) -> TaskPool:
        pool = TaskPool(limit, app=app, **options)
        pools.append(pool)
        pool.start()
        return pool

    yield start
    for pool in pools:
        pool.terminate()
