"""The worker of these tasks: remote control, rate limits, and what the jobs have left in it.

The last tests check what the jobs of all files of this folder have left, so this file is the last.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from tests.processes import eventually
from tests.workers.aio.aio_harness import WorkerProcess

Journal = Callable[[str], list[str]]


def test_remote_control_sees_and_steers_the_pool(
    app: ModuleType, inspect: Callable[..., Any], key: str, journal: Journal
) -> None:
    results = [app.sleep.delay(2, f"{key}{n}") for n in range(3)]
    eventually(lambda: all(journal(f"{key}{n}") for n in range(3)))
    active = eventually(lambda: len(jobs := inspect("active")) == 3 and jobs)
    assert {task["id"] for task in active} == {result.id for result in results}
    assert len({task["worker_pid"] for task in active}) == 3
    stats = inspect("stats")["pool"]
    assert stats["implementation"] == "worker.aio.pool:TaskPool"
    assert (stats["max-concurrency"], stats["running"], stats["queued"]) == (100, 3, 0)
    assert "uvloop" in stats["loop"]
    assert inspect("pool_grow", n=5) == {"ok": "pool will grow"}
    assert inspect("stats")["pool"]["max-concurrency"] == 105
    assert inspect("pool_shrink", n=5) == {"ok": "pool will shrink"}
    assert inspect("stats")["pool"]["max-concurrency"] == 100
    assert inspect("pool_restart") == {"ok": "reload started"}
    assert inspect("rate_limit", task_name="aio_app.limited", rate_limit="20/s") == {
        "ok": "new rate limit set successfully"
    }
    assert "ok" in inspect("time_limit", task_name="aio_app.unhurried", soft=0.2)
    with pytest.raises(SoftTimeLimitExceeded):
        app.unhurried.delay().get(timeout=60)
    for result in results:  # the jobs were not affected
        assert result.get(timeout=60) == 2


def test_rate_limits_hold(app: ModuleType, key: str, store: Any) -> None:
    for _ in range(10):
        app.limited.delay(key)
    eventually(lambda: store.llen(f"at:{key}") == 10)
    times = sorted(float(time_s) for time_s in store.lrange(f"at:{key}", 0, -1))
    assert times[-1] - times[0] >= 9 / 20 * 0.8


def test_a_rate_limit_that_is_set_while_the_worker_runs_holds_until_it_is_lifted(
    app: ModuleType, inspect: Callable[..., Any], key: str, store: Any
) -> None:
    def pace_s(at: str) -> float:
        for _ in range(8):
            app.hurried.delay(at)
        eventually(lambda: store.llen(f"at:{at}") == 8)
        times = sorted(float(time_s) for time_s in store.lrange(f"at:{at}", 0, -1))
        return (times[-1] - times[0]) / 7

    def limit(text: str) -> None:
        assert "ok" in inspect("rate_limit", task_name="aio_app.hurried", rate_limit=text)

    limit("5/s")
    assert pace_s(f"{key}limited") >= 0.2 * 0.8
    limit("0")
    assert pace_s(f"{key}free") < 0.1


def test_no_job_is_left_running(inspect: Callable[..., Any]) -> None:
    eventually(lambda: inspect("stats")["pool"]["running"] == 0, what="the end of all jobs")
    assert inspect("active") == []
    assert inspect("reserved") == []


def test_nothing_is_left_unacknowledged(app: ModuleType, store: Any) -> None:
    assert app.add.delay(1, 1).get(timeout=60) == 2
    eventually(lambda: store.hlen("unacked") == 0, what="the end of all acknowledgements")


def test_nothing_unexpected_was_logged(worker: WorkerProcess) -> None:
    for sign in (
        "a callback of the pool raised",
        "Unrecoverable",
        "never retrieved",
        "Pending callback",
        "Error in timer",
    ):
        assert sign not in worker.log
