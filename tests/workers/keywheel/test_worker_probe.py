"""The probe of a worker that is frozen, and of one without its Redis."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from sandbox.redis import EmbeddedRedis
from tests.processes import eventually, workers
from tests.tuned import tuned
from worker.probe import problem

NO_CELERY = """
import sys
sys.argv[1:] = [{file!r}, "--ready"]
import worker.probe
assert not {{"celery", "kombu", "redis", "pydantic", "asyncio"}}.intersection(sys.modules)
worker.probe.main()
"""


def test_a_frozen_worker_is_not_alive_and_a_worker_without_redis_is_alive_but_not_ready(
    tmp_path: Path, unmeasured_processes: None
) -> None:
    file = tmp_path / "heartbeat"

    def alive(*, within_s: float = 20) -> bool:
        return problem(file, within_s=within_s, ready=False) is None

    def ready() -> bool:
        return problem(file, within_s=20, ready=True) is None

    with EmbeddedRedis(data_dir=tmp_path / "redis") as server:
        environ = {"REDIS_URL": server.url, "GROQ_API_KEY": "gsk_" + "a1" * 26}
        environ |= {"KEYWHEEL_HEARTBEAT_PATH": str(file)} | tuned(status_interval_s=0.2)
        with workers(tmp_path, environ) as [worker]:
            eventually(ready, what="a worker that takes jobs")
            probe = [sys.executable, "-c", NO_CELERY.format(file=str(file))]
            subprocess.run(probe, check=True, timeout=20)

            server.stop()
            eventually(lambda: not ready(), what="a worker that takes no jobs")
            last_s = file.stat().st_mtime
            eventually(lambda: file.stat().st_mtime > last_s + 2, what="two heartbeats")
            assert alive()
            server.start()
            eventually(ready, what="a worker that takes jobs again")

            os.kill(worker.process.pid, signal.SIGSTOP)
            eventually(lambda: not alive(within_s=2), what="a worker that is not alive")
            os.kill(worker.process.pid, signal.SIGCONT)
            eventually(lambda: alive(within_s=2), what="a worker that is alive again")


def test_the_probe_says_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "heartbeat"
    probe = [sys.executable, "-m", "worker.probe", str(file)]
    result = subprocess.run(probe, capture_output=True, text=True, check=False, timeout=20)
    assert (result.returncode, result.stderr.partition(":")[0]) == (1, "no heartbeat")
    file.write_text("not ready\n")
    assert problem(file, within_s=20, ready=False) is None
    assert "takes no jobs" in str(problem(file, within_s=20, ready=True))
    os.utime(file, (0, 0))
    assert "the worker stands still" in str(problem(file, within_s=20, ready=False))
