"""All keys are exhausted, and one is revoked.

The sandbox's ledger judges how two workers react.
"""

import json
import re
import statistics
import time
from datetime import datetime
from typing import Any

import pytest
import redis

from tests.fleets import Fleet, StartFleet
from tests.processes import eventually

REST_S = 20
RETRY_RE = re.compile(
    r"^(\S+) .*Task tasks\.ai\.complete\[(\S+)\] retry: Retry in ([0-9.]+)s", re.MULTILINE
)


@pytest.fixture(scope="module")
def fleet(start_fleet: StartFleet) -> Fleet:
    return start_fleet(
        groq_keys=3, groq_rpm=12_000, groq_rpd=0, groq_tpm=0, groq_tpd=0, groq_latency_ms=20,
        resend_keys=1,
        # for calls in flight when the key began to rest; generous, because machines may be slow
        grace_ms=2000,
    )  # fmt: skip


@pytest.fixture(scope="module")
def rest_ends_s() -> list[float]:
    """When the keys were free again, as the first test of the module saw it."""
    return []


@pytest.fixture(scope="module")
def deferred() -> set[str]:
    """The ids of the jobs that waited while all keys rested, as their callers saw it."""
    return set()


def deferrals(fleet: Fleet) -> list[tuple[str, float, float]]:
    """The retries in the workers' logs.

    Each has its job, its time (seconds since 1970) and its countdown (seconds).
    """
    return [
        (job, datetime.fromisoformat(when).timestamp(), float(countdown))
        for worker in fleet.workers
        for when, job, countdown in RETRY_RE.findall(worker.log)
    ]


def test_all_keys_exhausted_for_a_while_delays_every_job_and_harms_none(
    fleet: Fleet, rest_ends_s: list[float], deferred: set[str]
) -> None:
    assert fleet.producer.ask("tasks.ai.complete", prompt="warm up")["text"]
    fleet.sandbox.control("exhaust", service="groq", seconds=REST_S)
    until_s = time.time() + REST_S
    rest_ends_s.append(until_s)
    sent_s: dict[str, float] = {}
    for _ in range(10):
        sent_s |= dict.fromkeys(
            fleet.producer.many("tasks.ai.complete", [{"prompt": "x"}] * 8), time.time()
        )
        time.sleep(0.2)
    # While every key rests, operators still get answers.
    status = fleet.producer.ask("tasks.admin.key_status")
    assert {key["state"] for key in status["groq"]["keys"]} == {"cooling"}
    assert all(0 < key["left_ms"] <= REST_S * 1000 for key in status["groq"]["keys"])

    with redis.Redis.from_url(fleet.redis.url) as client:
        stored = [
            json.loads(raw)
            for raw in client.mget(f"celery-task-meta-{job}" for job in sent_s)
            if raw
        ]
    waits = [meta["waits"] for meta in stored if meta["status"] == "RETRY"]
    deferred |= {meta["task_id"] for meta in stored if meta["status"] == "RETRY"}
    assert {(wait["kind"], wait["code"]) for wait in waits} == {("key", "rpm")}
    assert all(
        abs(datetime.fromisoformat(wait["next_try"]).timestamp() - until_s) < 3 for wait in waits
    )

    ended = fleet.producer.await_all(list(sent_s), within_s=REST_S + 30)
    assert {meta["status"] for meta in ended.values()} == {"SUCCESS"}
    assert time.time() < until_s + 15
    judgement = fleet.sandbox.ledger()["judgement"]
    assert judgement["calls_while_cooling"] == 0
    for meta in ended.values():
        assert_near_the_end_of_the_rest(
            datetime.fromisoformat(meta["date_done"]).timestamp(), until_s
        )


def assert_near_the_end_of_the_rest(served_s: float, until_s: float) -> None:
    # The provider names whole seconds, rounded up; the jobs come back spread shortly after that.
    assert until_s - 1.5 <= served_s <= until_s + 4.0


def test_countdowns_match_the_cooldown_within_a_second(
    fleet: Fleet, rest_ends_s: list[float], deferred: set[str]
) -> None:
    long_deferrals = [deferral for deferral in deferrals(fleet) if deferral[2] > 5]
    assert deferred, "a worker took the first jobs; the others waited in their queue"
    assert deferred <= {job for job, _, _ in long_deferrals}
    ends = [when + countdown - rest_ends_s[0] for _, when, countdown in long_deferrals]
    assert -1.0 <= min(ends) <= 1.0
    assert -1.0 <= statistics.median(ends) <= 1.0
    # A busy machine may log a line a little after its countdown was set.
    assert max(ends) <= 2.5


def test_a_revoked_key_is_not_called_again_by_any_worker_until_reset(fleet: Fleet) -> None:
    second = fleet.sandbox.keys("groq")[1]
    fleet.producer.ask("tasks.admin.reset_keys")
    fleet.sandbox.control("reset")

    def calls() -> int:
        keys = [
            key
            for key in fleet.sandbox.ledger()["keys"].values()
            if key["label"] == f"{second[:10]}..."
        ]
        return int(keys[0]["calls"]) if keys else 0

    def stream(jobs: int) -> list[str]:
        ids = []
        for _ in range(jobs // 20):
            ids += fleet.producer.many("tasks.ai.complete", [{"prompt": "x"}] * 20)
            time.sleep(0.1)
        return ids

    def all_good(ids: list[str]) -> None:
        ended = fleet.producer.await_all(ids, within_s=30)
        assert {meta["status"] for meta in ended.values()} == {"SUCCESS"}

    first = stream(100)
    fleet.sandbox.control("revoke", key="groq:2")
    all_good(first + stream(200))
    judgement = fleet.sandbox.ledger()["judgement"]
    assert judgement["calls_after_refusal"] == 0, fleet.sandbox.ledger()["violations"]
    # Both workers served jobs meanwhile, and neither calls the key now.
    at_rest = calls()
    assert at_rest > 0
    assert all("Using Groq key" in worker.log for worker in fleet.workers)
    all_good(stream(100))
    assert calls() == at_rest
    fleet.sandbox.control("restore", key="groq:2")
    all_good(stream(40))
    assert calls() == at_rest
    cleared: Any = fleet.producer.ask("tasks.admin.reset_keys", service="groq")
    assert cleared["reset"] == {"groq": 1}
    all_good(stream(60))  # without the reset, it would never be called again
    eventually(lambda: calls() > at_rest, what="a call with the key that is back")
