"""The primary of the Redis dies under load, and its replica takes its place."""

import asyncio
import time
from pathlib import Path
from typing import Any

from keywheel_client import AsyncKeywheel, Keywheel
from sandbox.process import Sandbox
from tests.failover import NAME, failovers
from tests.processes import Producer, eventually, run_celery, workers

DONE_S = 30.0
JOBS, EMAILS = 200, 120
LOAD: dict[str, Any] = {
    "groq_keys": 3, "groq_rpm": 3_000, "groq_rpd": 0, "groq_tpm": 0, "groq_tpd": 0,
    "groq_latency_ms": 300,
    "resend_keys": 2, "resend_rps": 20, "resend_daily": 0, "resend_monthly": 0,
    "resend_latency_ms": 300,
}  # fmt: skip


def send(producer: Producer, name: str) -> list[str]:
    ids = producer.many("tasks.ai.complete", [{"prompt": f"{name} {n}"} for n in range(JOBS)])
    mail = {"to": "ann@example.com", "text": "Hello"}
    return ids + producer.many(
        "tasks.email.send", [mail | {"subject": f"{name} {n}"} for n in range(EMAILS)]
    )


async def complete(url: str) -> str:
    async with AsyncKeywheel(url) as keywheel:
        job = await keywheel.complete("Say hello")
        return (await keywheel.result(job))["text"]


def test_a_failover_in_mid_load_loses_no_job_and_sends_no_email_twice(tmp_path: Path) -> None:
    with failovers(tmp_path) as redis, Sandbox(**LOAD) as sandbox:
        environ = sandbox.env() | {"REDIS_URL": redis.url, "KEYWHEEL_WORKER_CONCURRENCY": "40"}
        producer = redis.producer()
        with workers(tmp_path / "workers", environ, count=2) as started:
            ids = send(producer, "failover")
            eventually(lambda: len(sandbox.mail()) > EMAILS // 10, what="jobs under way")
            redis.primary.stop(kill=True)
            killed_s = time.monotonic()
            redis.await_failover()
            ended = producer.await_all(ids, within_s=DONE_S - (time.monotonic() - killed_s))
            with Keywheel(redis.url) as keywheel:
                assert keywheel.result(keywheel.complete("Say hello"))["text"]
            assert asyncio.run(complete(redis.url))
            logs = "".join(worker.log for worker in started)
        assert [meta["result"] for meta in ended.values() if meta["status"] != "SUCCESS"] == []
        accepted = [sandbox.mail().get(f"failover {n}", []) for n in range(EMAILS)]
        assert {len(accounts) for accounts in accepted} == {1}
        assert "Traceback" not in logs
        # What people type finds the new primary as well.
        shown = run_celery(tmp_path / "cli", environ, "keys", "status")
        assert "gsk_" in shown.stdout, shown.stderr
        renamed = environ | {"REDIS_URL": redis.url.replace(NAME, "other")}
        refused = run_celery(tmp_path / "cli", renamed, "keys", "status")
        assert "the sentinels watch no primary of the name other" in refused.stderr
        producer.close()
