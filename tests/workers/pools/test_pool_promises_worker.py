"""A pool's worker: how much it runs at once, its remote control, and its end.

Its last tests check what the tests of all files have left, so this file is the last.
"""

import json
import signal
from typing import Any

import pytest

from tests.processes import await_end, eventually

# -- pace


def test_as_many_jobs_run_at_once_as_the_concurrency_says_and_no_more(pool: Any, key: str) -> None:
    results = [pool.send("counts", key) for _ in range(12)]
    # Prefork may be forking a process.
    assert 1 < max(result.get(timeout=60) for result in results) <= 4


def test_a_rate_limit_holds(pool: Any, key: str) -> None:
    for _ in range(6):
        pool.send("limited", key)
    eventually(lambda: len(pool.journal(key)) == 6)
    times = sorted(map(float, pool.journal(key)))
    assert times[-1] - times[0] >= 0.8


# -- remote control


def test_remote_control_sees_and_steers_the_pool(pool: Any, key: str) -> None:
    result = pool.send("starts", key)
    (active,) = eventually(lambda: pool.control("active"), what="the job among the active ones")
    assert active["id"] == result.id
    assert isinstance(active["worker_pid"], int)
    assert pool.control("stats")["pool"]["max-concurrency"] == 4
    assert "ok" in pool.control(
        "time_limit", task_name="tests.workers.pools.pools_app.add", soft=9, hard=10
    )
    assert "ok" in pool.control(
        "rate_limit", task_name="tests.workers.pools.pools_app.total", rate_limit="100/s"
    )
    pool.store.set(f"go:{key}", 1)
    result.get(timeout=60)


def test_a_pool_grows_and_shrinks(pool: Any) -> None:
    assert pool.control("pool_grow", n=2) == {"ok": "pool will grow"}
    assert pool.control("pool_shrink", n=2) == {"ok": "pool will shrink"}


def test_a_pool_is_restarted_and_works_on(pool: Any) -> None:
    assert pool.control("pool_restart") == {"ok": "reload started"}
    assert pool.send("add", 1).get(timeout=60) == 2


# -- the end of the worker; these tests come last


def test_no_job_is_left_running_and_no_message_unacknowledged(pool: Any) -> None:
    eventually(lambda: pool.control("active") == [], what="the end of all jobs")
    eventually(lambda: pool.unacknowledged() == 0, what="the end of all acknowledgements")


def test_a_warm_shutdown_lets_jobs_end_and_gives_the_others_back(
    pool: Any, key: str, request: pytest.FixtureRequest
) -> None:
    results = [pool.send("waits", key, 0.5) for _ in range(7)]
    eventually(lambda: pool.journal(key))
    pool.process.send_signal(signal.SIGTERM)
    # A child of prefork waits up to 30 s for its ending parent to read its last result
    # (billiard's GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT, 300 times 0.1 s).
    assert await_end(pool.process, within_s=60) == 0
    ended = {result.id for result in results if result.state == "SUCCESS"}
    assert pool.journal(key).count("began") == pool.journal(key).count("ended") == len(ended) > 0
    given_back = [
        json.loads(message)["headers"]["id"] for message in pool.store.lrange("pools", 0, -1)
    ]
    assert sorted(set(given_back) - ended) == sorted({result.id for result in results} - ended)
    assert len(given_back) == len(set(given_back))
    # Results that prefork's parent did not read are not acknowledged: those ended jobs run again.
    assert "prefork" in request.node.name or not ended.intersection(given_back)
    assert pool.unacknowledged() == 0
