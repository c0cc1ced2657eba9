"""Flower's buttons, pressed over HTTP as its pages do, and the worker's reactions."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded

from sandbox.redis import EmbeddedRedis, free_port
from tests.processes import ROOT, eventually, unmeasured
from tests.workers.aio.aio_harness import APP, WorkerProcess

Journal = Callable[[str], list[str]]
Start = Callable[..., WorkerProcess]


class Flower:
    """A plain `celery flower` of the test app."""

    def __init__(self, url: str, log: Any) -> None:
        self._address = f"http://127.0.0.1:{(port := free_port())}"
        environment = {
            "AIO_REDIS_URL": url,
            "FLOWER_UNAUTHENTICATED_API": "1",
            "FLOWER_PORT": str(port),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", APP, "flower"],
            cwd=Path(log.name).parent,
            env=unmeasured({**os.environ, **environment, "PYTHONPATH": str(ROOT)}),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _fetch(self, path: str, data: bytes | None = None) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"{self._address}{path}", data, timeout=15) as answer:  # noqa: S310 - our own
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, exc.read().decode()
        except OSError:
            return 0, "no answer"

    def await_ready(self) -> None:
        eventually(
            lambda: self._fetch("/healthcheck")[0] == 200, within_s=30, what="Flower's answer"
        )

    def press(self, button: str, target: str, **fields: Any) -> tuple[int, str]:
        """Return the status, and the message on the page."""
        status, text = self._fetch(
            f"/api/{button}/{target}", urllib.parse.urlencode(fields).encode()
        )
        return status, json.loads(text)["message"] if status == 200 else text

    def look(self, worker: WorkerProcess) -> Any:
        """Return what the worker's page shows after its refresh button.

        It is None while the worker does not answer.
        """
        query = urllib.parse.urlencode({"refresh": True, "workername": worker.name})
        status, text = self._fetch(f"/api/workers?{query}")
        return json.loads(text)[worker.name] if status == 200 else None

    def size(self, worker: WorkerProcess) -> Any:
        return self.look(worker)["stats"]["pool"]["max-concurrency"]

    def await_worker(self, worker: WorkerProcess) -> WorkerProcess:
        eventually(lambda: "stats" in (self.look(worker) or ()), what="the worker's page")
        return worker


@pytest.fixture(scope="module")
def flower(aio_redis: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flower]:
    path = tmp_path_factory.mktemp("flower") / "flower.log"
    with path.open("wb") as log:
        started = Flower(aio_redis.url, log)
    try:
        started.await_ready()
        yield started
        started.process.send_signal(signal.SIGTERM)
        assert started.process.wait(15) == 0
    finally:
        started.process.kill()
        started.process.wait()
    assert "Traceback" not in path.read_text()


@pytest.fixture(scope="module")
def worker(flower: Flower, start_worker: Start) -> WorkerProcess:
    return flower.await_worker(start_worker("-c", "2"))


def _send(aio: ModuleType, name: str, worker: WorkerProcess, *args: Any) -> Any:
    return getattr(aio, name).apply_async(args, queue=worker.queue)


def test_grow_and_shrink_change_how_many_jobs_run_at_once(
    aio: ModuleType, flower: Flower, worker: WorkerProcess, key: str
) -> None:
    def at_a_time(count: int, at: str) -> int:
        return max(
            result.get(timeout=20)
            for result in [_send(aio, "counted", worker, at, 0.2) for _ in range(count)]
        )

    assert at_a_time(6, f"{key}first") == 2
    grown = flower.press("worker/pool/grow", worker.name, workername=worker.name, n=3)
    assert grown == (200, f"Growing '{worker.name}' worker's pool by 3")
    assert flower.size(worker) == 5
    assert at_a_time(15, f"{key}grown") == 5
    shrunk = flower.press("worker/pool/shrink", worker.name, workername=worker.name, n=4)
    assert shrunk == (200, f"Shrinking '{worker.name}' worker's pool by 4")
    assert flower.size(worker) == 1
    assert at_a_time(4, f"{key}shrunk") == 1
    assert flower.press("worker/pool/grow", worker.name, workername=worker.name, n=9)[0] == 200
    assert flower.size(worker) == 10


def test_a_restart_of_the_pool_hurts_no_job(  # noqa: PLR0917 - fixtures
    aio: ModuleType, flower: Flower, worker: WorkerProcess, key: str, journal: Journal, store: Any
) -> None:
    running = _send(aio, "gated", worker, key, f"{key}gate")
    eventually(lambda: journal(key) == ["began"])
    restarted = flower.press("worker/pool/restart", worker.name, workername=worker.name)
    assert restarted == (200, f"Restarting '{worker.name}' worker's pool")
    assert _send(aio, "add", worker, 1, 2).get(timeout=60) == 3
    store.set(f"{key}gate", 1)
    assert running.get(timeout=60) == "ended"
    assert journal(key) == ["began", "ended"]


def test_a_rate_limit_paces_a_task(
    aio: ModuleType, flower: Flower, worker: WorkerProcess, key: str, store: Any
) -> None:
    def pace_s(at: str) -> float:
        for _ in range(6):
            _send(aio, "hurried", worker, at)
        eventually(lambda: store.llen(f"at:{at}") == 6)
        times = sorted(float(time_s) for time_s in store.lrange(f"at:{at}", 0, -1))
        return (times[-1] - times[0]) / 5

    def limit(per_s: int) -> None:
        reply = flower.press(
            "task/rate-limit", "aio_app.hurried", workername=worker.name, ratelimit=per_s
        )
        assert reply == (200, "new rate limit set successfully")

    limit(4)
    assert 0.25 * 0.8 <= pace_s(f"{key}limited") < 0.25 * 3
    limit(0)
    assert pace_s(f"{key}free") < 0.25 * 0.8


def test_time_limits_stop_the_jobs_that_begin_afterwards(
    aio: ModuleType, flower: Flower, worker: WorkerProcess, key: str, journal: Journal
) -> None:
    for kind, error in (("soft", SoftTimeLimitExceeded), ("hard", TimeLimitExceeded)):
        reply = flower.press(
            "task/timeout", "aio_app.unhurried", workername=worker.name, **{kind: 1}
        )
        assert reply == (200, "time limits set successfully")
        with pytest.raises(error):
            _send(aio, "unhurried", worker).get(timeout=60)
    assert _send(aio, "sleep", worker, 1.5, key).get(timeout=60) == 1.5  # a task with another name


def test_a_job_that_is_terminated_runs_its_finally_blocks(
    aio: ModuleType, flower: Flower, worker: WorkerProcess, key: str, journal: Journal
) -> None:
    result = _send(aio, "cleaned", worker, key)
    eventually(lambda: journal(key) == ["began"])
    assert flower.press("task/revoke", result.id, terminate="true") == (
        200,
        f"Revoked '{result.id}'",
    )
    with pytest.raises(TaskRevokedError):
        result.get(timeout=60)
    eventually(lambda: journal(key) == ["began", "finally"])  # the state is reported first
    shown = flower.look(worker)
    assert (shown["stats"]["pool"]["running"], shown["active"]) == (0, [])


def test_a_job_that_is_revoked_while_it_runs_goes_on_and_one_that_waits_never_begins(  # noqa: PLR0917 - fixtures
    aio: ModuleType, flower: Flower, worker: WorkerProcess, key: str, journal: Journal, store: Any
) -> None:
    running = _send(aio, "gated", worker, key, f"{key}gate")
    waiting = aio.sleep.apply_async((0, f"{key}waiting"), queue=worker.queue, countdown=1)
    eventually(lambda: journal(key) == ["began"])
    for result in (running, waiting):
        assert flower.press("task/revoke", result.id, terminate="false") == (
            200,
            f"Revoked '{result.id}'",
        )
    store.set(f"{key}gate", 1)
    assert running.get(timeout=60) == "ended"
    with pytest.raises(TaskRevokedError):
        waiting.get(timeout=60)
    assert journal(f"{key}waiting") == []


def test_jobs_wait_while_their_queue_has_no_consumer_and_run_when_it_has_one_again(  # noqa: PLR0917 - fixtures
    aio: ModuleType, flower: Flower, worker: WorkerProcess, key: str, journal: Journal, store: Any
) -> None:
    def consumer(button: str, queue: str) -> tuple[int, str]:
        return flower.press(
            f"worker/queue/{button}-consumer", worker.name, workername=worker.name, queue=queue
        )

    def queues() -> set[str]:
        return {queue["name"] for queue in flower.look(worker)["active_queues"]}

    assert consumer("cancel", worker.queue) == (200, f"no longer consuming from {worker.queue}")
    assert consumer("add", f"{key}other") == (200, f"add consumer {key}other")
    assert queues() == {f"{key}other"}
    waiting = [_send(aio, "sleep", worker, 0, key) for _ in range(3)]
    # The worker is awake then, and takes as much as it may.
    for n in range(3):
        assert aio.add.apply_async((n, n), queue=f"{key}other").get(timeout=60) == 2 * n
    assert (store.llen(worker.queue), journal(key)) == (3, [])
    assert consumer("add", worker.queue) == (200, f"add consumer {worker.queue}")
    assert [result.get(timeout=60) for result in waiting] == [0, 0, 0]
    assert queues() == {f"{key}other", worker.queue}


def test_flower_sees_every_task_begin_and_end(
    aio: ModuleType, flower: Flower, worker: WorkerProcess
) -> None:
    good, bad = _send(aio, "add", worker, 1, 2), _send(aio, "boom", worker)
    for result, state in ((good, "SUCCESS"), (bad, "FAILURE")):

        def shown(task_id: str = result.id) -> Any:
            status, text = flower._fetch(f"/api/task/info/{task_id}")
            task = json.loads(text) if status == 200 else {}
            return task.get("state") in {"SUCCESS", "FAILURE"} and task

        task = eventually(shown, what="the task's page")
        assert (task["state"], task["worker"]) == (state, worker.name)
        assert (
            task["received"]
            <= task["started"]
            <= task[{"SUCCESS": "succeeded"}.get(state, "failed")]
        )


def test_autoscale_is_refused_if_it_is_off(flower: Flower, worker: WorkerProcess) -> None:
    status, message = flower.press(
        "worker/pool/autoscale", worker.name, workername=worker.name, min=1, max=5
    )
    assert (status, "Autoscale not enabled" in message) == (403, True)


def test_autoscale_moves_its_bounds_and_a_shutdown_waits_for_running_jobs(  # noqa: PLR0917 - fixtures
    aio: ModuleType, flower: Flower, start_worker: Start, key: str, journal: Journal, store: Any
) -> None:
    worker = flower.await_worker(start_worker("--autoscale", "2,1"))
    scaled = flower.press(
        "worker/pool/autoscale", worker.name, workername=worker.name, min=3, max=6
    )
    assert scaled == (200, f"Autoscaling '{worker.name}' worker (min=3, max=6)")
    assert flower.size(worker) >= 3
    running = [_send(aio, "gated", worker, key, f"{key}gate") for _ in range(6)]
    eventually(lambda: journal(key) == ["began"] * 6, what="the growth")
    assert flower.press("worker/shutdown", worker.name, workername=worker.name) == (
        200,
        "Shutting down!",
    )
    store.set(f"{key}gate", 1)
    assert worker.await_exit() == 0
    assert [result.state for result in running] == ["SUCCESS"] * 6
    assert store.llen(worker.queue) == 0


def test_nothing_unexpected_was_logged_and_no_message_is_left(
    flower: Flower, worker: WorkerProcess, store: Any
) -> None:
    eventually(lambda: store.hlen("unacked") == 0)
    assert flower.press("worker/shutdown", worker.name, workername=worker.name)[0] == 200
    assert worker.await_exit() == 0
    for sign in (
        "a callback of the pool raised",
        "Unrecoverable",
        "never retrieved",
        "Error in timer",
    ):
        assert sign not in worker.log
