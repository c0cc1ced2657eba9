"""The primary of the Redis dies under load, and its replica replaces it."""

import asyncio
import time
from pathlib import Path
from typing import Any

import redis

from keywheel_client import AsyncKeywheel, Keywheel
from sandbox.process import Sandbox
from tests.failover import NAME, failovers, replicated
from tests.processes import Producer, eventually, hang_up, run_celery, workers
from tests.tcp_proxy import TcpProxy

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


def sent(sandbox: Sandbox, name: str) -> list[int]:
    """How often each email was accepted."""
    return [len(sandbox.mail().get(f"{name} {n}", ())) for n in range(EMAILS)]


def await_load(sandbox: Sandbox, name: str) -> None:
    eventually(lambda: sum(sent(sandbox, name)) > EMAILS // 10, what="jobs under way")


def assert_done(sandbox: Sandbox, name: str, ended: dict[str, dict[str, Any]]) -> None:
    assert [meta["result"] for meta in ended.values() if meta["status"] != "SUCCESS"] == []
    assert set(sent(sandbox, name)) == {1}


async def complete(url: str) -> str:
    async with AsyncKeywheel(url) as keywheel:
        job = await keywheel.complete("Say hello")
        return (await keywheel.result(job))["text"]


def test_a_failover_in_mid_load_loses_no_job_and_sends_no_email_twice(tmp_path: Path) -> None:
    with failovers(tmp_path) as servers, Sandbox(**LOAD) as sandbox:
        environ = sandbox.env() | {"REDIS_URL": servers.url, "KEYWHEEL_WORKER_CONCURRENCY": "40"}
        producer = servers.producer()
        with workers(tmp_path / "workers", environ, count=2) as started:
            ids = send(producer, "failover")
            await_load(sandbox, "failover")
            servers.primary.stop(kill=True)
            killed_s = time.monotonic()
            servers.await_failover(servers.replica)
            ended = producer.await_all(ids, within_s=DONE_S - (time.monotonic() - killed_s))
            # Applications with the client find the new primary, too.
            with Keywheel(servers.url) as keywheel:
                assert keywheel.result(keywheel.complete("Say hello"))["text"]
            assert asyncio.run(complete(servers.url))
            logs = "".join(worker.log for worker in started)
        assert_done(sandbox, "failover", ended)
        assert "Traceback" not in logs
        # So do people's commands.
        result = run_celery(tmp_path / "cli", environ, "keys", "status")
        assert "gsk_" in result.stdout, result.stderr
        renamed = environ | {"REDIS_URL": servers.url.replace(NAME, "other")}
        refused = run_celery(tmp_path / "cli", renamed, "keys", "status")
        assert "the sentinels watch no primary of the name other" in refused.stderr
        producer.close()


def test_a_primary_that_moves_behind_its_address_loses_nothing_either(tmp_path: Path) -> None:
    with (
        replicated(tmp_path) as (first, second),
        TcpProxy(first.port) as proxy,
        Sandbox(**LOAD) as sandbox,
    ):
        url = f"redis://127.0.0.1:{proxy.port}/0"
        environ = sandbox.env() | {"REDIS_URL": url, "KEYWHEEL_WORKER_CONCURRENCY": "40"}
        with workers(tmp_path / "workers", environ) as [worker]:
            # The old primary keeps its connections, and answers each write with READONLY.
            producer = Producer(url)
            ids = send(producer, "moved")
            await_load(sandbox, "moved")
            with redis.Redis(port=first.port) as client:
                client.execute_command("FAILOVER")
                eventually(lambda: client.info("replication")["role"] == "slave", what="a replica")
            proxy.target = second.port
            assert_done(sandbox, "moved", producer.await_all(ids, within_s=DONE_S))
            hang_up(producer.app)  # stock connections stay with the replica, which accepts no job
            hang_up(producer.sender)
            # The server dies, and its connections with it.
            ids = send(producer, "killed")
            await_load(sandbox, "killed")
            second.stop(kill=True)
            with redis.Redis(port=first.port) as client:
                client.execute_command("REPLICAOF", "NO", "ONE")
            proxy.target = first.port
            assert_done(sandbox, "killed", producer.await_all(ids, within_s=DONE_S))
            assert "Traceback" not in worker.log
            producer.close()
