"""A worker on a Redis that denies it a right, or that accepts few connections."""

from pathlib import Path

import redis

from sandbox.process import Sandbox
from sandbox.redis import EmbeddedRedis
from tests.fleets import WIDE_LIMITS
from tests.processes import Producer, run_celery, workers


def test_on_a_redis_that_takes_few_connections_all_jobs_end(tmp_path: Path) -> None:
    with (
        EmbeddedRedis(data_dir=tmp_path / "redis", options={"maxclients": "25"}) as server,
        Sandbox(groq_keys=3, resend_keys=1, **WIDE_LIMITS) as sandbox,
        workers(tmp_path, sandbox.env() | {"REDIS_URL": server.url}) as [worker],
    ):
        producer = Producer(server.url)
        ids = producer.many("tasks.ai.complete", [{"prompt": "x"}] * 300)
        mail = {"to": "a@example.com", "text": "x"}
        ids += producer.many("tasks.email.send", [mail | {"subject": str(n)} for n in range(60)])
        ended = producer.await_all(ids, within_s=40)
        producer.close()
    assert {meta["status"] for meta in ended.values()} == {"SUCCESS"}
    assert "max number of clients" not in worker.log


def test_a_worker_without_rights_ends_with_a_sentence(tmp_path: Path) -> None:
    rules = ["on", ">pw", "~*", "resetchannels", "+@all"]
    with EmbeddedRedis(data_dir=tmp_path / "redis") as server:
        with redis.Redis.from_url(server.url) as client:
            client.execute_command("ACL", "SETUSER", "kw", *rules)  # type: ignore[no-untyped-call]
        environ = {
            "REDIS_URL": server.url.replace("://", "://kw:pw@"),
            "GROQ_API_KEY": "gsk_" + "a1" * 26,
        }
        refused = run_celery(tmp_path, environ, "worker")
    assert refused.returncode == 1
    assert "keywheel cannot start." in refused.stderr
    assert "NOPERM" in refused.stderr
    assert "Traceback" not in refused.stderr
