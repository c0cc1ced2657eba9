"""Workers and servers that end suddenly.

Whenever a process dies, each message is done, in a queue, or due to be redelivered.
"""

import base64
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import redis
from celery import Celery

from sandbox.redis import EmbeddedRedis
from tests.integration.aio.transport_harness import OURS, STOCK, receiving, send
from tests.processes import ROOT, eventually
from tests.workers.aio.aio_harness import WorkerProcess

pytestmark = pytest.mark.usefixtures("unmeasured_processes")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(data_dir=tmp_path) as started:
        yield started


_WINDOW = 128
"""The number of messages of tenants that stay in their list."""


def _body(text: str) -> str:
    return str(json.loads(base64.b64decode(json.loads(text)["body"])))


def _kept(store: Any) -> set[str]:
    """Return every message that the server still has, waiting or unacknowledged."""
    waiting = [_body(text) for queue in "ab" for text in store.lrange(queue, 0, -1)]
    return {
        *waiting,
        *(_body(json.dumps(json.loads(entry)[0])) for entry in store.hvals("unacked")),
    }


def _give_back(url: str) -> None:
    """Do what any worker with Celery's transport does after the visibility timeout."""
    with receiving(url, transport=STOCK, visibility_timeout=-60) as medic:
        medic.channel.qos.restore_visible(num=None)


@pytest.mark.timeout(300)  # it sends 3,000 messages one by one
def test_a_process_killed_at_any_instant_loses_no_message(server: EmbeddedRedis) -> None:
    dice = random.Random(7)  # noqa: S311
    sent = {f"{queue}{number}" for queue in "ab" for number in range(1500)}
    send(server.url, "b", *sorted(body for body in sent if body[0] == "b"))
    for tenant in range(3):
        own = [body for body in sent if body[0] == "a" and int(body[1:]) % 3 == tenant]
        send(server.url, "a", *sorted(own), tenant=f"tenant-{tenant}")
    with redis.Redis.from_url(server.url, decode_responses=True) as store:
        with receiving(server.url) as worker:
            worker.channel.sharing.add("a")
            # The other messages wait in the sublists of their tenants.
            while store.llen("a") > _WINDOW:
                store.delete("a.tenants.pause")
                worker.channel.sharing._looked_s = float("-inf")
                worker.channel.share()
        for life in range(1, 9):
            child = subprocess.Popen(
                [sys.executable, "-m", "tests.workers.aio.transport_child", server.url, OURS],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            try:
                eventually(lambda life=life: int(store.get("ready") or 0) == life, what="the start")
                time.sleep(dice.random() * 0.1)  # the test varies the instant of the end
            finally:
                child.kill()
                child.wait()
            assert set(store.smembers("done")) | _kept(store) == sent
            assert store.hlen("unacked") == store.zcard("unacked_index")
        assert 0 < store.scard("done") < len(sent), (
            "the processes were all killed too early or too late"
        )
        # The messages of the dead process come back, also with the stock transport.
        _give_back(server.url)
        assert store.hlen("unacked") == 0
        with receiving(server.url, "a", "b", prefetch=0) as rest:
            rest.on_message = lambda message: message.ack()
            left = sent - store.smembers("done")
            rest.until(lambda: left <= set(rest.bodies))
            rest.until(
                lambda: not store.llen("a") and not store.llen("b")
            )  # copies of done messages come as well
        assert store.hlen("unacked") == store.llen("a") == store.llen("b") == 0


def test_a_worker_killed_in_mid_flight_leaves_every_job_to_the_next(
    server: EmbeddedRedis, tmp_path: Path, aio: ModuleType
) -> None:
    client = Celery("client", broker=server.url, set_as_current=False)
    with redis.Redis.from_url(server.url, decode_responses=True) as store:
        worker = WorkerProcess(server.url, tmp_path / "first.log", "-c", "50").await_ready()
        keys = [f"kill{number}" for number in range(400)]
        for key in keys:
            client.send_task(aio.sleep.name, (0.05, key), queue=worker.queue)
        eventually(lambda: len(store.keys("journal:kill*")) > 60)
        worker.close()
        begun = len(store.keys("journal:kill*"))
        assert store.llen(worker.queue) + store.hlen("unacked") >= len(keys) - begun
        _give_back(server.url)
        second = WorkerProcess(
            server.url, tmp_path / "second.log", "-c", "50", AIO_QUEUE=worker.queue
        )
        try:
            eventually(
                lambda: all("ended" in store.lrange(f"journal:{key}", 0, -1) for key in keys),
                what="the end of all",
            )
            eventually(lambda: not store.hlen("unacked"))
        finally:
            second.close()
            client.close()


def test_a_restart_of_the_server_loses_no_job(
    server: EmbeddedRedis, tmp_path: Path, aio: ModuleType
) -> None:
    client = Celery("client", broker=server.url, set_as_current=False)
    worker = WorkerProcess(server.url, tmp_path / "worker.log", "-c", "50").await_ready()
    try:
        with redis.Redis.from_url(server.url, decode_responses=True) as store:
            ids = [
                client.send_task(aio.sleep.name, (0.05,), queue=worker.queue).id for _ in range(600)
            ]
            eventually(lambda: len(store.keys("celery-task-meta-*")) > 60)
            server.restart()
            eventually(
                lambda: not store.llen(worker.queue), within_s=30, what="the end of the queue"
            )
            eventually(lambda: "Connection to broker lost" in worker.log)
            eventually(
                lambda: all(store.exists(f"celery-task-meta-{job}") for job in ids),
                within_s=40,
                what="all ends",
            )
            # Jobs that ran when the server stopped are acknowledged late.
            eventually(lambda: not store.hlen("unacked"), within_s=40)
            worker.signal(signal.SIGTERM)
            assert worker.await_exit() == 0
            assert store.llen(worker.queue) == store.hlen("unacked") == 0
    finally:
        worker.close()
        client.close()


def test_acknowledgements_go_out_while_a_warm_shutdown_waits(
    aio: ModuleType,
    start_worker: Callable[..., WorkerProcess],
    key: str,
    store: Any,
    journal: Callable[[str], Any],
) -> None:
    worker = start_worker()
    booked = store.hlen("unacked")
    aio.sleep.apply_async((0.5, f"{key}short"), queue=worker.queue)
    aio.sleep.apply_async((6, f"{key}long"), queue=worker.queue)
    eventually(lambda: journal(f"{key}short") and journal(f"{key}long"))
    worker.signal(signal.SIGTERM)
    eventually(lambda: journal(f"{key}short") == ["began", "ended"])
    eventually(lambda: store.hlen("unacked") == booked + 1)
    assert journal(f"{key}long") == ["began"], "the worker ended too early to show anything"
    assert worker.await_exit() == 0
