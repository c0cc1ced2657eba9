"""Real failures: a killed worker, lost scripts, lost state, a shutdown."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.fleets import Fleet, StartFleet, fleets
from tests.processes import Worker, eventually
from tests.tuned import tuned

# Short, so that the job of a dead worker comes back within seconds; long enough for a slow machine
# to do 180 jobs at once.
SHORT = {
    "KEYWHEEL_WORKER_LEASE_S": "5",
    "KEYWHEEL_TASK_TIME_LIMIT_S": "12",
    "KEYWHEEL_GROQ_TIMEOUT_S": "2",
    "KEYWHEEL_RESEND_TIMEOUT_S": "2",
    "KEYWHEEL_RETRY_BACKOFF_S": "0.07",
} | tuned(max_wait_s=0.5)
WIDE = {
    "groq_keys": 3, "groq_rpm": 12_000, "groq_rpd": 10**7, "groq_tpm": 10**7, "groq_tpd": 0,
    "groq_latency_ms": 700,
    "resend_keys": 2, "resend_rps": 50, "resend_daily": 0, "resend_monthly": 0,
    "resend_latency_ms": 700,
}  # fmt: skip
JOBS, EMAILS = 150, 30


def send(fleet: Fleet) -> list[str]:
    ids = fleet.producer.many("tasks.ai.complete", [{"prompt": f"job {n}"} for n in range(JOBS)])
    mail = {"to": "ann@example.com", "text": "Hello"}
    return ids + fleet.producer.many(
        "tasks.email.send", [mail | {"subject": f"mail {n}"} for n in range(EMAILS)]
    )


def warm_up(fleet: Fleet) -> None:
    """Let the pool learn every key's limits.

    Before that, the pool allows few calls in flight, and the calls of a killed worker count until
    their leases expire. That is half a minute here, in which nothing would be tested.
    """
    ids = fleet.producer.many("tasks.ai.complete", [{"prompt": "warm up"}] * 9)
    mail = {"to": "ann@example.com", "text": "warm up"}
    ids += fleet.producer.many(
        "tasks.email.send", [mail | {"subject": f"warm up {n}"} for n in range(6)]
    )
    fleet.producer.await_all(ids, within_s=30)
    fleet.sandbox.control("reset")


def accepted(fleet: Fleet) -> int:
    services = fleet.sandbox.ledger()["services"]
    return int(services["groq"]["accepted"] + services["resend"]["accepted"])


def assert_all_good(fleet: Fleet, ended: dict[str, dict[str, Any]]) -> None:
    failed = [meta["result"] for meta in ended.values() if meta["status"] != "SUCCESS"]
    assert failed == []
    judgement = fleet.sandbox.ledger()["judgement"]
    assert judgement["emails_accepted"] == EMAILS
    assert judgement["emails_accepted_twice"] == 0
    assert judgement["content_accepted_twice"] == 0


def test_the_jobs_of_a_killed_worker_are_done_by_another_and_no_email_goes_twice(
    start_fleet: StartFleet,
) -> None:
    fleet = start_fleet(settings=SHORT, **WIDE)
    warm_up(fleet)
    ids = send(fleet)
    # Most of the jobs are still being taken. Taking a job and recording it is one step.
    eventually(lambda: accepted(fleet) >= 10, what="jobs under way")
    fleet.workers[0].kill()
    ended = fleet.producer.await_all(ids, within_s=90)
    assert_all_good(fleet, ended)
    # The broker has no message left that would run again.
    with redis.Redis.from_url(fleet.redis.url) as client:
        eventually(lambda: not client.hlen("unacked"), what="an empty table of unacknowledged jobs")


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A worker that no test stops."""
    with fleets(lambda: tmp_path_factory.mktemp("lasting")) as start:
        yield start(count=1, **WIDE)


@pytest.fixture
def fleet(lasting: Fleet) -> Fleet:
    """The same worker, with providers that have counted no call yet."""
    lasting.sandbox.control("reset")
    return lasting


def test_scripts_that_redis_forgot_are_loaded_again(fleet: Fleet) -> None:
    logged = len(fleet.logs)
    ids = send(fleet)
    with redis.Redis.from_url(fleet.redis.url) as client:
        for _ in range(20):
            client.script_flush()
            time.sleep(0.02)
    ended = fleet.producer.await_all(ids, within_s=30)
    assert_all_good(fleet, ended)
    assert {meta["result"]["attempts"] for meta in ended.values()} == {1}
    assert "Traceback" not in fleet.logs[logged:]


def test_a_pool_whose_state_is_gone_learns_it_again(fleet: Fleet) -> None:
    ids = send(fleet)
    eventually(lambda: accepted(fleet) >= 10, what="jobs under way")
    with redis.Redis.from_url(fleet.redis.url) as client:
        for name in client.scan_iter("{kw:groq}*"):
            client.delete(name)
    ended = fleet.producer.await_all(ids, within_s=30)
    assert_all_good(fleet, ended)


def test_a_worker_that_is_asked_to_stop_finishes_what_it_began_and_leaves_the_rest(
    start_fleet: StartFleet,
) -> None:
    fleet = start_fleet(settings=SHORT, count=1, **(WIDE | {"groq_latency_ms": 1_000}))
    ids = send(fleet)
    eventually(lambda: accepted(fleet) >= 10, what="jobs under way")
    fleet.workers[0].stop()
    assert fleet.workers[0].process.returncode == 0
    successor = Worker(fleet.folder, fleet.environ, name="w9").await_ready()
    try:
        ended = fleet.producer.await_all(ids, within_s=40)
    finally:
        successor.stop()
    assert_all_good(fleet, ended)
    assert fleet.sandbox.ledger()["services"]["groq"]["accepted"] == JOBS
