"""How long a job holds its dedupe key, and when a job that joined it checks again."""

import hashlib
from typing import Any

import pytest
from celery.exceptions import Retry
from redis.asyncio import Redis

from config.settings import Settings
from tests.integration.turns.turns_bench import Bench, eta_s, history_of
from worker.jobs.dedupe import DedupeKeys, run_deduped
from worker.jobs.history import HEADER

RECORD = "kw:dedupe:" + hashlib.sha256(b"bench.job\0order-7").hexdigest()[:40]
"""The name of the record, by which workers of different versions find each other's keys."""


async def run(bench: Bench, redis: Redis, job: str, work: Any, **header: Any) -> Any:
    bench.task.push_request(
        id=job,
        task="bench.job",
        args=(),
        kwargs={},
        retries=0,
        headers={HEADER: header},
        called_directly=False,
        is_eager=False,
        delivery_info={"exchange": "", "routing_key": "bench", "priority": 0},
        correlation_id=job,
    )
    keys, settings = DedupeKeys(redis, namespace="kw"), Settings(task_time_limit_s=200)
    try:
        return await run_deduped(
            bench.task, keys, "order-7", work, settings=settings, deadline_s=1_000
        )
    finally:
        bench.task.pop_request()


async def test_a_job_holds_its_key_for_its_deadline_its_last_run_and_a_minute(
    bench: Bench, own_redis: Redis
) -> None:
    async def work() -> dict[str, Any]:
        return {"held_ms": await own_redis.pttl(RECORD), "holder": await own_redis.get(RECORD)}

    hold = await run(bench, own_redis, "a", work)
    assert hold["held_ms"] == pytest.approx(1_260_000, abs=20_000)
    assert hold["holder"] == "a"


@pytest.mark.parametrize(
    ("deferrals", "pause_s"), [(0, 1), (1, 2), (3, 8), (5, 30), (9, 30), (500, 30)]
)
async def test_a_job_that_joins_another_looks_again_twice_as_late_each_time(
    bench: Bench, own_redis: Redis, deferrals: int, pause_s: int
) -> None:
    async def work() -> dict[str, Any]:
        pytest.fail("another job does it")

    await DedupeKeys(own_redis, namespace="kw").join(RECORD, "a", hold_ms=60_000)
    with pytest.raises(Retry):
        await run(bench, own_redis, "b", work, deferrals=deferrals)
    [message] = bench.sent()
    assert eta_s(message) == pytest.approx(pause_s, rel=0.1, abs=0.9)
    history = history_of(message)
    assert (history["deferrals"], history["reason"]) == (
        deferrals + 1,
        "another job with its dedupe_key is open",
    )
