"""A Redis without free memory.

Jobs end meanwhile, and a worker has to stop.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest

from tests.processes import eventually
from tests.workers.aio.aio_harness import WorkerProcess

Journal = Callable[[str], list[str]]
Start = Callable[..., WorkerProcess]


@contextmanager
def full(store: Any) -> Iterator[None]:
    store.config_set("maxmemory", "1")
    try:
        yield
    finally:
        store.config_set("maxmemory", "0")


def _finish_while_full(aio: ModuleType, worker: WorkerProcess) -> Any:
    """Send a job that ends after the server is full; return its result. Follow it with `full`."""
    result = aio.sleep.apply_async((1.0,), queue=worker.queue)
    eventually(lambda: f"aio_app.sleep[{result.id}] received" in worker.log)
    return result


@pytest.mark.parametrize(
    "name", ["cut", "cut_privately"]
)  # messages taken by our requests, and by Celery's
def test_a_job_whose_end_cannot_be_stored_runs_again(  # noqa: PLR0917 - fixtures
    aio: ModuleType, start_worker: Start, key: str, journal: Journal, store: Any, name: str
) -> None:
    worker = start_worker(AIO_LEASE_S="3")
    result = getattr(aio, name).apply_async((key,), queue=worker.queue)
    eventually(lambda: journal(key) == ["began"])
    with full(store):
        eventually(lambda: f"cannot report the end of aio_app.{name}[{result.id}]" in worker.log)
    eventually(lambda: journal(key) == ["began", "began again"])
    assert result.get(timeout=60) == "done"
    eventually(lambda: store.hlen("unacked") == 0)
    assert "a callback of the pool raised" not in worker.log


def test_a_warm_shutdown_waits_until_a_result_is_stored(
    aio: ModuleType, start_worker: Start, store: Any
) -> None:
    worker = start_worker()
    result = _finish_while_full(aio, worker)
    with full(store):
        eventually(lambda: "the result store rejects commands" in worker.log)
        worker.signal(signal.SIGTERM)
        eventually(lambda: "Warm shutdown" in worker.log)
    assert worker.await_exit() == 0
    assert result.state == "SUCCESS"
    assert store.hlen("unacked") == 0


def test_a_cold_shutdown_does_not_wait_for_a_full_store(
    aio: ModuleType, start_worker: Start, store: Any
) -> None:
    worker = start_worker(AIO_LEASE_S="3")
    result = _finish_while_full(aio, worker)
    with full(store):
        eventually(lambda: "the result store rejects commands" in worker.log)
        worker.signal(signal.SIGQUIT)
        worker.await_exit()
    start_worker(AIO_QUEUE=worker.queue, AIO_LEASE_S="3")
    assert result.get(timeout=20) == 1.0
