"""A job that kills its worker each time, and jobs that happen to run beside it."""

import os
from pathlib import Path

import pytest

from sandbox.process import Sandbox
from sandbox.redis import EmbeddedRedis
from tests.processes import Producer, Worker, eventually
from tests.tuned import tuned

SHOP = """
import asyncio, os
from worker.celery import app

@app.task(name="shop.orders.kill")
async def kill():
    with open(os.environ["SHOP_LOG"], "a") as log:
        log.write("killed ")
    os._exit(9)

@app.task(name="shop.orders.slow")
async def slow():
    await asyncio.sleep(0.3)
"""
SETTINGS = {"KEYWHEEL_WORKER_LEASE_S": "2", **tuned(max_deliveries=3)}


@pytest.mark.timeout(240)
def test_a_job_that_kills_its_workers_is_stopped_and_its_neighbours_all_succeed(
    tmp_path: Path,
) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    shop_log = tmp_path / "shop.log"
    with (
        EmbeddedRedis(data_dir=tmp_path / "redis") as server,
        Sandbox(groq_keys=1, resend_keys=1) as sandbox,
    ):
        environ = sandbox.env() | SETTINGS | {"REDIS_URL": server.url, "SHOP_LOG": str(shop_log)}
        producer = Producer(server.url)

        def send(name: str) -> str:
            return str(producer.app.send_task(name, queue="ai").id)

        innocent = [send("shop.orders.slow") for _ in range(15)]
        poison = send("shop.orders.kill")
        innocent += [send("shop.orders.slow") for _ in range(15)]
        started: list[Worker] = []

        def have_ended() -> bool:
            if not started or started[-1].process.poll() is not None:  # as a process manager does
                started.append(
                    Worker(tmp_path, environ, "--include", "shop", name=f"w{len(started)}")
                )
            return len(producer.states([poison, *innocent])) == 31

        try:
            eventually(have_ended, within_s=200, what="the end of every job")
            [letter] = producer.ask("tasks.admin.dead_letters")["dead_letters"]
            client = producer.app.backend.client
            eventually(lambda: not client.hlen("unacked"), what="the last acknowledgement")
        finally:
            for worker in started:
                worker.stop()
        states = producer.states([poison, *innocent])
        assert {states[job]["status"] for job in innocent} == {"SUCCESS"}
        assert states[poison]["result"]["exc_type"] == "Poisoned"
        assert (letter["id"], letter["kind"], letter["replayable"]) == (poison, "poison", True)
        assert shop_log.read_text().split() == ["killed"] * 3
        assert [worker.process.returncode for worker in started] == [9, 9, 9, os.EX_OK]
        assert not client.llen("ai")
        producer.close()
