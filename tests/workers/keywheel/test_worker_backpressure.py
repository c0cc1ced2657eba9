"""Without a key the jobs of a service stay in the broker, and the worker serves all others."""

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.fleets import WIDE_LIMITS, Fleet, fleets
from tests.processes import eventually, inspected, run_celery

pytestmark = pytest.mark.usefixtures("unmeasured_processes")

JOBS = 400
MOST_DEFERRED = 50
"""The most jobs that may find out that all keys rest; later jobs stay in the broker."""
REST_S = 20
LONG_REST_S = 600
WAITING = 100_000
GROWTH_MB = 60
"""The highest allowed growth of a worker's memory.

A burst of deferrals leaves up to 40 MB in the allocator. If a tenth of the jobs were fetched, they
would take hundreds.
"""
MEASURED_S = 3
GOT_KEY_RE = re.compile(r"^(\S+) .*\[tasks\.ai\.complete (\S+)\] 🤖 Using Groq key", re.MULTILINE)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    options = WIDE_LIMITS | {"groq_keys": 3, "resend_keys": 1}
    with (
        pytest.MonkeyPatch.context() as patch,
        fleets(lambda: tmp_path_factory.mktemp("fleet")) as start,
    ):
        # Many deferrals, which threads publish, may make coverage's tracer spin for ever when a
        # thread ends. Besides, the memory and time that are measured here must be the worker's own.
        patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        settings = {"KEYWHEEL_WORKER_CONCURRENCY": "10"}
        yield start(count=1, settings=settings, redis_options={"appendonly": "no"}, **options)


@pytest.fixture
def broker(fleet: Fleet) -> Iterator[Any]:
    """A client of the broker; after the test the queue is empty again, and the worker idle."""
    with redis.Redis.from_url(fleet.redis.url, decode_responses=True) as client:
        yield client
        client.delete("ai")
        bring_back(fleet)
        eventually(
            lambda: not client.zcard("ai.deferred.due"),
            what="the return of the jobs that were deferred",
        )
        eventually(lambda: not client.hlen("unacked"), what="their end")


def exhaust(fleet: Fleet, *, seconds: float) -> float:
    """Make every key of Groq rest; return when the rest ends."""
    fleet.sandbox.control("exhaust", service="groq", seconds=seconds)
    return time.time() + seconds


def reset_by_task(fleet: Fleet) -> None:
    fleet.producer.ask("tasks.admin.reset_keys", service="groq")


def reset_by_command(fleet: Fleet) -> None:
    result = run_celery(fleet.folder, fleet.environ, "keys", "reset", "--service", "groq")
    assert result.returncode == 0, result.stderr


def bring_back(fleet: Fleet, *, reset: Callable[[Fleet], None] = reset_by_task) -> None:
    """Make Groq serve before the rest is over; the workers learn it from an operator's reset."""
    fleet.sandbox.control("reset", ledger=False)
    reset(fleet)


def send(fleet: Fleet) -> list[str]:
    return fleet.producer.many("tasks.ai.complete", [{"prompt": "Say hello"}] * JOBS)


def await_success(fleet: Fleet, ids: list[str]) -> None:
    ended = fleet.producer.await_all(ids, within_s=40)
    assert {outcome["status"] for outcome in ended.values()} == {"SUCCESS"}


def paused(fleet: Fleet) -> list[str]:
    """Return the paused queues, from the worker's stats."""
    return inspected(fleet.producer.app, fleet.workers[0].name, "stats")["backpressure"]["paused"]


def await_pause(fleet: Fleet, broker: Any) -> None:
    """Wait until the queue is paused and all jobs that the worker took from it are deferred."""

    def all_deferred() -> bool:
        return not broker.hlen("unacked") and bool(broker.zcard("ai.deferred.due"))

    eventually(lambda: paused(fleet) == ["ai"], within_s=40, what="a paused queue")
    eventually(all_deferred, what="the deferral of all that was taken")


def await_resumption(fleet: Fleet) -> None:
    eventually(lambda: paused(fleet) == [], what="a resumed queue")


def test_a_worker_whose_keys_all_rest_leaves_the_jobs_in_the_broker_until_the_keys_come_back(
    fleet: Fleet, broker: Any
) -> None:
    back_s = exhaust(fleet, seconds=REST_S)
    ids = send(fleet)
    await_pause(fleet, broker)
    assert time.time() < back_s - 1, "the machine was too slow to see a pause"
    calls = fleet.sandbox.ledger()["services"]["groq"]["calls"]

    left = []

    def is_nearly_over() -> bool:
        left.append(broker.llen("ai"))
        return time.time() > back_s - 0.5

    eventually(is_nearly_over, what="the end of the rest")
    assert left[0] < JOBS
    assert left[-1] >= JOBS - MOST_DEFERRED, "only a few jobs are taken meanwhile"
    assert fleet.sandbox.ledger()["services"]["groq"]["calls"] == calls, (
        "no call is made while the rest is known"
    )
    await_success(fleet, ids)
    await_resumption(fleet)


def test_jobs_with_a_countdown_delay_no_other_job_and_a_reset_leaves_them_alone(
    fleet: Fleet, broker: Any
) -> None:
    """The test sends more of them than a worker holds jobs that wait for a key."""
    late = [
        fleet.producer.sender.send_task(
            "tasks.ai.complete", kwargs={"prompt": "late"}, queue="ai", countdown=600
        ).id
        for _ in range(MOST_DEFERRED + 10)
    ]
    eventually(lambda: broker.hlen("unacked") == len(late), what="the worker holds them")
    reset_by_task(fleet)
    # For two seconds, several times a second, the reset runs deferred jobs that arrive.
    for number in range(30):
        assert fleet.producer.ask("tasks.ai.complete", prompt=f"now {number}")["text"]
    assert fleet.producer.states(late) == {}
    fleet.producer.app.control.revoke(late)
    fleet.producer.await_all(late, within_s=20)


@pytest.mark.parametrize("reset", [reset_by_task, reset_by_command])
def test_a_reset_resumes_the_queue_at_once(
    fleet: Fleet, broker: Any, reset: Callable[[Fleet], None]
) -> None:
    exhaust(fleet, seconds=LONG_REST_S)
    ids = send(fleet)
    await_pause(fleet, broker)
    waiting = [json.loads(message)["headers"]["id"] for message in broker.lrange("ai", 0, -1)]
    assert len(waiting) >= JOBS - MOST_DEFERRED
    # Without a reset, the first deferred job would come back then, and no job before. The reset
    # after the test before may still run deferred jobs, which are then deferred anew.
    [(_, due_us)] = eventually(
        lambda: broker.zrange("ai.deferred.due", 0, 0, withscores=True), what="a deferred job"
    )
    assert due_us / 1e6 > time.time() + LONG_REST_S / 2, "the machine was too slow to see a reset"

    bring_back(fleet, reset=reset)
    await_success(fleet, ids)
    [(_, entry)] = broker.xrevrange("{kw:groq}:audit", count=1)
    assert entry["event"] == "reset"
    got_key = {job: when for when, job in GOT_KEY_RE.findall(fleet.workers[0].log)}
    first_s = min(datetime.fromisoformat(got_key[job]).timestamp() for job in waiting)
    assert int(entry["at_ms"]) / 1000 < first_s < due_us / 1e6
    await_resumption(fleet)


def memory_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def busy_s(pid: int) -> float:
    """Return the CPU time that a process has used so far, in seconds of a core."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pile_up(broker: Any, message: str, count: int) -> None:
    """Put copies of a producer's message into the queue, each of them a job of its own."""
    fields = json.loads(message)
    job, tag = fields["headers"]["id"], fields["properties"]["delivery_tag"]

    def copy(number: int) -> str:
        end = f"{number:012x}"
        return message.replace(job, job[:-12] + end).replace(tag, tag[:-12] + end)

    for first in range(0, count, 5_000):
        broker.lpush("ai", *map(copy, range(first, first + 5_000)))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="measures by Linux' /proc")
def test_a_hundred_thousand_waiting_jobs_cost_a_worker_nothing_and_delay_no_email(
    fleet: Fleet, broker: Any
) -> None:
    pid = fleet.workers[0].process.pid
    exhaust(fleet, seconds=LONG_REST_S)
    ids = send(fleet)
    await_pause(fleet, broker)
    message = broker.lindex("ai", 0)
    bring_back(fleet)
    await_success(fleet, ids)
    await_resumption(fleet)

    before_mb = memory_mb(pid)  # of a worker that has deferred jobs before
    exhaust(fleet, seconds=LONG_REST_S)
    pile_up(broker, message, WAITING)
    await_pause(fleet, broker)

    began_s, began_busy_s = time.monotonic(), busy_s(pid)
    eventually(lambda: time.monotonic() - began_s > MEASURED_S, what="the end of the measurement")
    share = (busy_s(pid) - began_busy_s) / (time.monotonic() - began_s)
    assert share < 0.3, f"the worker took {share:.0%} of a core"

    waits = broker.llen("ai")
    fleet.producer.ask("tasks.email.send", to="a@example.com", subject="At once", text="x")
    assert broker.llen("ai") > waits - MOST_DEFERRED, "the email was served before the waiting jobs"
    assert memory_mb(pid) - before_mb < GROWTH_MB
    assert WAITING - MOST_DEFERRED <= broker.llen("ai") < WAITING, (
        "few jobs were taken, and none was lost"
    )


def test_jobs_of_another_model_overtake_jobs_that_wait_for_a_key(fleet: Fleet, broker: Any) -> None:
    used_up, other = "openai/gpt-oss-20b", "openai/gpt-oss-120b"
    fleet.sandbox.control(
        "fault", service="groq", model=used_up, status=429, retry_after_s=LONG_REST_S, seconds=30
    )
    ids = fleet.producer.many(
        "tasks.ai.complete", [{"prompt": "Say hello", "model": used_up}] * JOBS
    )
    await_pause(fleet, broker)
    passed = fleet.producer.many(
        "tasks.ai.complete", [{"prompt": "Say hello", "model": other}] * 20
    )
    await_success(fleet, passed)
    assert {fleet.producer.app.AsyncResult(job).state for job in ids} <= {"PENDING", "RETRY"}
    fleet.sandbox.control("reset", ledger=False)
    reset_by_task(fleet)
    await_success(fleet, ids)
