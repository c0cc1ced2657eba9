"""Who holds a dedupe key: the first job, until it ends or its time is over."""

import asyncio

from redis.asyncio import Redis

from worker.jobs.dedupe import DedupeKeys

HOLD_MS = 60_000


async def test_the_first_job_holds_a_key_and_the_others_join_it(own_redis: Redis) -> None:
    keys = DedupeKeys(own_redis, namespace="kw")
    record = keys.record_of("tasks.ai.complete", "ann@example.com")
    assert "ann" not in record
    assert record != keys.record_of("tasks.email.send", "ann@example.com")
    for job in ("a", "b", "c", "a"):  # "a" runs again, as where its worker died
        assert await keys.join(record, job, hold_ms=HOLD_MS) == "a"
    assert await keys.release(record, "b") == []
    assert sorted(await keys.release(record, "a")) == ["b", "c"]
    assert await keys.join(record, "b", hold_ms=HOLD_MS) == "b"
    assert await keys.join(record, "c", hold_ms=HOLD_MS, ended="a") == "b"
    assert await keys.join(record, "c", hold_ms=HOLD_MS, ended="b") == "c"
    assert await keys.join(record, "d", hold_ms=HOLD_MS, ended="b") == "c", "only one takes over"


async def test_a_key_is_free_when_its_time_is_over(own_redis: Redis) -> None:
    keys = DedupeKeys(own_redis, namespace="kw")
    assert await keys.join("kw:dedupe:x", "a", hold_ms=1) == "a"
    async with asyncio.timeout(10):
        while await own_redis.exists("kw:dedupe:x"):  # noqa: ASYNC110 - Redis tells nobody
            await asyncio.sleep(0.001)
    assert await keys.join("kw:dedupe:x", "b", hold_ms=HOLD_MS) == "b"
    assert 0 < await own_redis.pttl("kw:dedupe:x") <= HOLD_MS
    assert await keys.release("kw:dedupe:x", "a") == [], "it is not the first job's any more"
