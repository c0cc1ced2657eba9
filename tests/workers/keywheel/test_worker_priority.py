"""A worker that holds many waiting bulk jobs still serves interactive ones."""

from pathlib import Path

import redis

from sandbox.process import Sandbox
from sandbox.redis import EmbeddedRedis
from tests.processes import Producer, eventually, workers

RPM = 30
BULK = 150


def test_a_worker_full_of_waiting_bulk_jobs_takes_and_serves_interactive_ones(
    tmp_path: Path,
) -> None:
    options = {
        "groq_keys": 1,
        "groq_rpm": RPM,
        "groq_tpm": 0,
        "groq_rpd": 0,
        "groq_tpd": 0,
        "resend_keys": 0,
    }
    with (
        EmbeddedRedis(data_dir=tmp_path / "redis") as server,
        Sandbox(**options) as sandbox,
        redis.Redis.from_url(server.url) as client,
        workers(
            tmp_path, sandbox.env() | {"REDIS_URL": server.url, "KEYWHEEL_WORKER_CONCURRENCY": "10"}
        ) as [worker],
    ):
        producer = Producer(server.url)

        def send(priority: int | None) -> str:
            arguments = {"prompt": "Say hello"}
            return producer.sender.send_task(
                "tasks.ai.complete", kwargs=arguments, queue="ai", priority=priority
            ).id

        bulk = [send(9) for _ in range(BULK)]
        worker.await_log("Queue ai paused for bulk", within_s=40)
        used_up = "the end of what the key serves at once"
        eventually(lambda: sandbox.ledger()["services"]["groq"]["calls"] >= RPM, what=used_up)
        left = eventually(
            lambda: client.llen("ai\x06\x169"), what="bulk jobs that were left in the broker"
        )
        urgent = [send(priority) for priority in (None, 0, 5)]
        ended = producer.await_all(urgent, within_s=40)
        assert {outcome["status"] for outcome in ended.values()} == {"SUCCESS"}
        assert client.llen("ai\x06\x169") > left - 20, "bulk jobs are not served first to make room"
        done = sum(state["status"] == "SUCCESS" for state in producer.states(bulk).values())
        assert done < BULK // 2
        assert "retry: Retry in" not in worker.log, "waiting jobs are not sent back and forth"
        producer.close()
