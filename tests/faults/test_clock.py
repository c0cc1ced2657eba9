"""Redis' clock is set while jobs wait for keys that rest.

This needs libfaketime.
"""

import time
from pathlib import Path

import pytest

from sandbox.process import Sandbox
from sandbox.redis import EmbeddedRedis
from tests.processes import Producer, eventually, workers

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
REST_S = 12
BACK_S = 600


@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")
def test_a_rest_ends_on_time_although_the_clock_of_redis_is_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = tmp_path / "clock"
    clock.write_text("+0\n")
    with monkeypatch.context() as faked:
        faked.setenv("LD_PRELOAD", str(FAKETIME))
        faked.setenv("FAKETIME_TIMESTAMP_FILE", str(clock))
        for name in ("FAKETIME_NO_CACHE", "FAKETIME_DONT_FAKE_MONOTONIC", "DONT_FAKE_MONOTONIC"):
            faked.setenv(name, "1")
        server = EmbeddedRedis(data_dir=tmp_path / "redis").start()
    with (
        server,
        Sandbox(groq_keys=2) as sandbox,
        workers(tmp_path, sandbox.env() | {"REDIS_URL": server.url}),
    ):
        producer = Producer(server.url)
        sandbox.control("exhaust", service="groq", seconds=REST_S)
        began_s = time.monotonic()
        job = producer.send("tasks.ai.complete", prompt="x")
        eventually(lambda: job.state == "RETRY", what="a deferral")
        eventually(lambda: time.monotonic() > began_s + REST_S * 0.75, what="most of the rest")
        clock.write_text(f"-{BACK_S}\n")
        assert producer.outcome(job, within_s=60)["text"]
        assert time.monotonic() - began_s < BACK_S, "by Redis' clock the rest would last longer"
        producer.close()
