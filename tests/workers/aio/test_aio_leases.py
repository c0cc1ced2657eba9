"""Leases.

The messages of a dead worker are redelivered soon. A live worker keeps its messages, whatever
happens to Redis.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import redis
from celery import Celery

from sandbox.redis import EmbeddedRedis
from tests.processes import eventually
from tests.workers.aio.aio_harness import WorkerProcess

pytestmark = pytest.mark.usefixtures("unmeasured_processes")

SHORT_S = "2"
"""A lease for tests in which a worker dies."""
LONG_S = "5"
"""A lease that a live worker renews in time even on a slow machine."""
PATIENCE_S = 40.0

Start = Callable[..., WorkerProcess]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(data_dir=tmp_path_factory.mktemp("leases-redis")) as started:
        yield started


@pytest.fixture
def store(server: EmbeddedRedis) -> Iterator["redis.Redis"]:
    server.flush()
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        yield client


@pytest.fixture
def journal(store: Any) -> Callable[[str], list[str]]:
    return lambda key: list(store.lrange(f"journal:{key}", 0, -1))


@pytest.fixture
def start(server: EmbeddedRedis, tmp_path: Path) -> Iterator[Start]:
    workers: list[WorkerProcess] = []

    def begin(*arguments: str, **options: Any) -> WorkerProcess:
        workers.append(
            WorkerProcess(server.url, tmp_path / f"{len(workers)}.log", *arguments, **options)
        )
        return workers[-1]

    yield begin
    for worker in workers:
        worker.close()


@pytest.fixture
def client(server: EmbeddedRedis) -> Iterator[Celery]:
    application = Celery("client", broker=server.url, set_as_current=False)
    yield application
    application.close()


def test_another_worker_runs_the_jobs_of_a_killed_one_within_seconds(
    start: Start, client: Celery, store: Any, journal: Any, aio: ModuleType
) -> None:
    first = start("-c", "3", AIO_LEASE_S=SHORT_S).await_ready()
    queue = first.queue
    client.send_task(
        aio.deaths.name, (0.1, "later"), queue=queue, countdown=6
    )  # held in memory, as retries are
    for key in ("one", "two", "three"):
        client.send_task(aio.deaths.name, (1.0, key), queue=queue)
    client.send_task(aio.deaths.name, (0.1, "reserved"), queue=queue)
    eventually(lambda: len(store.keys("journal:*")) >= 3, within_s=PATIENCE_S)
    eventually(lambda: store.zcard("unacked.leases") >= 4, within_s=PATIENCE_S)
    first.close()
    began_s = time.monotonic()
    second = start("-c", "100", AIO_LEASE_S=SHORT_S, AIO_QUEUE=queue)
    for key in ("one", "two", "three"):
        eventually(lambda key=key: journal(key)[-1:] == ["ended"], within_s=PATIENCE_S, what=key)
        assert journal(key)[-2] == "began 1 1"
    for key in ("reserved", "later"):
        eventually(lambda key=key: journal(key)[-1:] == ["ended"], within_s=PATIENCE_S, what=key)
    assert journal("later") == [
        "began 0 0",
        "ended",
    ]  # the job had not begun, so the worker did not die of it
    assert time.monotonic() - began_s < PATIENCE_S, (
        "the time is far below the visibility timeout of an hour"
    )
    eventually(lambda: not store.hlen("unacked"))
    assert store.zcard("unacked.leases") == store.zcard("unacked_index") == 0
    assert "messages held by dead workers" in second.log


def test_a_worker_with_gossip_and_mingle_takes_messages_in_batches_too(
    start: Start, client: Celery, store: Any, aio: ModuleType
) -> None:
    workers = [start("-c", "10", greets=True).await_ready()]
    workers.append(
        start(
            "-n", "second@test", "-c", "10", greets=True, AIO_QUEUE=workers[0].queue
        ).await_ready()
    )
    assert "sync with 1 nodes" in workers[1].log
    for number in range(12):
        client.send_task(aio.sleep.name, (3, f"job{number}"), queue=workers[0].queue)
    eventually(lambda: len(store.keys("journal:job*")) == 12, within_s=PATIENCE_S)
    assert store.zcard("unacked.leases") == store.hlen("unacked") == 12
    commands = {connection["cmd"] for connection in store.client_list()}
    assert "brpop" not in commands
    eventually(lambda: not store.hlen("unacked"), within_s=PATIENCE_S)


def test_messages_that_a_stopping_worker_gives_back_count_no_death(
    start: Start, client: Celery, store: Any, aio: ModuleType
) -> None:
    first = start("-c", "1", AIO_LEASE_S=LONG_S).await_ready()
    for key in ("runs", "waits"):
        client.send_task(aio.deaths.name, (0.5, key), queue=first.queue)
    client.send_task(aio.deaths.name, (0.5, "held"), queue=first.queue, countdown=60)
    eventually(lambda: store.exists("journal:runs"), within_s=PATIENCE_S)
    first.signal(signal.SIGTERM)
    first.await_exit()
    assert store.llen(first.queue) == 2
    assert all('"deaths"' not in text for text in store.lrange(first.queue, 0, -1))
    assert store.zcard("unacked.leases") == 0


def test_a_live_worker_keeps_its_jobs_however_long_they_run_and_whatever_happens_to_redis(  # noqa: PLR0917 - fixtures
    start: Start, client: Celery, server: EmbeddedRedis, store: Any, journal: Any, aio: ModuleType
) -> None:
    first = start("-c", "10", AIO_LEASE_S=LONG_S).await_ready()
    queue = first.queue
    client.send_task(aio.sleep.name, (15, "long"), queue=queue)
    client.send_task(aio.sleep.name, (0.1, "held"), queue=queue, countdown=12)
    eventually(
        lambda: journal("long") == ["began"] and store.zcard("unacked.leases") == 2,
        within_s=PATIENCE_S,
    )
    second = start("-c", "10", AIO_LEASE_S=LONG_S, AIO_QUEUE=queue).await_ready()
    # Redis hangs for longer than a lease: all leases have ended when it continues.
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        time.sleep(float(LONG_S) + 1)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    # Redis restarts: connections are lost, and running jobs continue.
    server.restart()
    eventually(lambda: journal("long") == ["began", "ended"], within_s=PATIENCE_S)
    eventually(lambda: journal("held")[-1:] == ["ended"], within_s=PATIENCE_S)
    eventually(lambda: not store.hlen("unacked"), within_s=PATIENCE_S)
    assert journal("long") == ["began", "ended"]
    assert journal("held") == ["began", "ended"]
    assert not store.llen(queue)
    assert "workers that died" not in first.log + second.log
