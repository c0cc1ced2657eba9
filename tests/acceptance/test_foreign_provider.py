"""The same jobs with a provider other than our sandbox, reached only by its base URLs."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.redis import EmbeddedRedis
from tests.processes import Producer, workers

SERVER = Path(__file__).parent / "foreign_provider.py"
JOBS, EMAILS = 240, 60


@pytest.fixture
def foreign_url() -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.communicate(timeout=10)


def judgement_of(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/judgement", timeout=10) as answer:  # noqa: S310 - our own URL
        judgement: dict[str, Any] = json.loads(answer.read())
    return judgement


def test_a_provider_that_says_nothing_but_retry_after_gets_every_job_once(
    foreign_url: str, tmp_path: Path
) -> None:
    with EmbeddedRedis(data_dir=tmp_path / "redis") as server:
        environ = {
            "REDIS_URL": server.url,
            "GROQ_BASE_URL": foreign_url,
            "RESEND_API_URL": foreign_url,
            "GROQ_MODEL": "their-model",
        }
        environ |= {f"GROQ_API_KEY_{n}": f"gsk_{n}{'abcdefghij' * 5}" for n in (2, 3, 4)}
        environ |= {f"RESEND_API_KEY_{n}": f"re_{n}{'abcdefghij' * 3}" for n in (2, 3)}
        environ |= {f"RESEND_FROM_{n}": f"news@team{n}.example.net" for n in (2, 3)}
        with workers(tmp_path, environ, count=2):
            producer = Producer(server.url)
            ids = producer.many("tasks.ai.complete", [{"prompt": f"job {n}"} for n in range(JOBS)])
            mail = {"to": "ann@example.com", "text": "Hello"}
            ids += producer.many(
                "tasks.email.send", [mail | {"subject": f"mail {n}"} for n in range(EMAILS)]
            )
            ended = producer.await_all(ids, within_s=60)
            producer.close()
    failed = [meta["result"] for meta in ended.values() if meta["status"] != "SUCCESS"]
    assert failed == []
    judgement = judgement_of(foreign_url)
    assert (judgement["answered"], judgement["twice"], judgement["emails"]) == (JOBS, 0, EMAILS)
    assert judgement["early_ms"] == [], judgement
    assert all(counts["ok"] for counts in judgement["by_key"].values())
    assert len(judgement["by_key"]) == 5
