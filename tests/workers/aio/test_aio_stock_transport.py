"""The pool with kombu's own Redis transport, as in the first example of its documentation."""

import signal
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from kombu import Connection

from sandbox.redis import EmbeddedRedis
from tests.processes import eventually
from tests.workers.aio.aio_harness import WorkerProcess, cut_connections

pytestmark = pytest.mark.usefixtures("unmeasured_processes")

Journal = Callable[[str], list[str]]
Start = Callable[..., WorkerProcess]
Send = Callable[..., Any]


@pytest.fixture
def start(start_worker: Start) -> Start:
    return lambda *arguments: start_worker(*arguments, AIO_TRANSPORT="redis")


@pytest.fixture
def send(aio: ModuleType, aio_redis: EmbeddedRedis) -> Send:
    """Send a job with the stock transport, too."""

    def send(name: str, worker: WorkerProcess, *args: Any, **options: Any) -> Any:
        with Connection(aio_redis.url, transport="redis") as connection:
            return getattr(aio, name).apply_async(
                args, queue=worker.queue, connection=connection, **options
            )

    return send


def test_jobs_run_and_store_their_results(
    aio: ModuleType, start: Start, send: Send, key: str, store: Any
) -> None:
    worker = start()
    who = [send("who", worker, 0.01) for _ in range(50)]
    for result in who:
        assert set(result.get(timeout=20)) == {result.id}
    # Not earlier, because a worker receives commands only shortly after it is ready.
    stats = aio.app.control.inspect(destination=[worker.name], timeout=10).stats()[worker.name]
    assert (stats["broker"]["transport"], stats["pool"]["max-concurrency"]) == ("redis", 100)
    assert send("hooked", worker, "retry").get(propagate=False, timeout=20).args == ("retry",)
    assert send("soft", worker, "catch", key).get(timeout=60) == "caught"
    assert send("plain", worker, 0).get(timeout=60)[2] == "aio-task-"
    assert send("rejects", worker, True, key).get(timeout=60) == "second time"
    assert send("add", worker, 1, 2, countdown=0.5).get(timeout=60) == 3
    eventually(lambda: store.hlen("unacked") == 0)
    assert "a callback of the pool raised" not in worker.log


def test_a_cut_of_the_brokers_connection_loses_no_job(  # noqa: PLR0917 - fixtures
    aio: ModuleType, start: Start, send: Send, key: str, journal: Journal, store: Any
) -> None:
    worker = start("-c", "4", "--prefetch-multiplier", "2")
    keys = [f"{key}{number}" for number in range(12)]
    results = [send("gated", worker, each, f"{key}gate", 1.0) for each in keys]
    # Four run, four wait in the pool, four in the queue.
    eventually(lambda: [journal(each) for each in keys[:4]] == [["began"]] * 4)
    eventually(lambda: store.llen(worker.queue) == 4)
    cut_connections(aio, store)
    eventually(lambda: "Connection to broker lost" in worker.log)
    store.set(f"{key}gate", 1)
    assert [result.get(timeout=30) for result in results] == ["ended"] * 12
    assert send("add", worker, 1, 2).get(timeout=60) == 3
    # The running jobs continue; this transport redelivers them, as with any pool of Celery's.
    assert [journal(each)[:2] for each in keys[:4]] == [["began", "ended"]] * 4
    assert [journal(each) for each in keys[4:]] == [["began", "ended"]] * 8
    eventually(lambda: (store.hlen("unacked"), store.llen(worker.queue)) == (0, 0))


def test_a_warm_shutdown_waits_for_running_jobs_and_gives_the_rest_back(
    start: Start, send: Send, key: str, journal: Journal, store: Any
) -> None:
    worker = start("-c", "2", "--prefetch-multiplier", "3")
    results = [send("gated", worker, f"{key}{number}", f"{key}gate", 2.0) for number in range(10)]
    eventually(lambda: journal(f"{key}0") == journal(f"{key}1") == ["began"])
    eventually(lambda: store.llen(worker.queue) == 4)  # four more wait in the pool
    worker.signal(signal.SIGTERM)
    eventually(lambda: "Warm shutdown" in worker.log)
    store.set(f"{key}gate", 1)
    assert worker.await_exit() == 0
    assert [journal(f"{key}{number}") for number in range(10)] == [["began", "ended"]] * 2 + [
        []
    ] * 8
    assert [result.state for result in results] == ["SUCCESS"] * 2 + ["PENDING"] * 8
    assert (store.llen(worker.queue), store.hlen("unacked")) == (8, 0)
