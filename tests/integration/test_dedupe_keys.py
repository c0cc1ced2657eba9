"""Dedupe keys: which job holds one, and when a job joins a job that has ended."""

import asyncio

from redis.asyncio import Redis

from worker.jobs.dedupe import DedupeKeys

HOLD_MS = 60_000


async def now_ms(redis: Redis) -> int:
    seconds, microseconds = await redis.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


async def join(keys: DedupeKeys, record: str, job: str, ended: str = "") -> str:
    holder = await keys.join(record, job, hold_ms=HOLD_MS, ended=ended)
    assert not holder.has_ended
    return holder.job


async def test_the_first_job_holds_a_key_and_the_others_join_it(own_redis: Redis) -> None:
    keys = DedupeKeys(own_redis, namespace="kw")
    record = keys.record_of("tasks.ai.complete", "ann@example.com")
    assert "ann" not in record
    assert record != keys.record_of("tasks.email.send", "ann@example.com")
    for job in ("a", "b", "c", "a"):  # "a" runs again, as after the death of its worker
        assert await join(keys, record, job) == "a"
    assert await keys.release(record, "b") == []
    assert sorted(await keys.release(record, "a")) == ["b", "c"]
    assert await join(keys, record, "b") == "b"
    assert await join(keys, record, "c", "a") == "b"
    assert await join(keys, record, "c", "b") == "c"
    assert await join(keys, record, "d", "b") == "c", "only one job takes over"


async def test_a_key_is_free_when_its_time_is_over(own_redis: Redis) -> None:
    keys = DedupeKeys(own_redis, namespace="kw")
    assert await keys.join("kw:dedupe:x", "a", hold_ms=1) == ("a", False)
    async with asyncio.timeout(10):
        while await own_redis.exists("kw:dedupe:x"):  # noqa: ASYNC110 - Redis notifies nobody
            await asyncio.sleep(0.001)
    assert await join(keys, "kw:dedupe:x", "b") == "b"
    assert 0 < await own_redis.pttl("kw:dedupe:x") <= HOLD_MS
    assert await keys.release("kw:dedupe:x", "a") == [], (
        "the key no longer belongs to the first job"
    )
    await keys.end("kw:dedupe:x", "a", keep_ms=HOLD_MS)
    assert await own_redis.keys("kw:dedupe_ended:*") == []


async def test_a_job_joins_one_that_ended_after_it_was_enqueued(own_redis: Redis) -> None:
    keys = DedupeKeys(own_redis, namespace="kw")
    record = keys.record_of("tasks.ai.complete", "x")
    assert await join(keys, record, "a") == "a"
    before_ms = await now_ms(own_redis)
    async with asyncio.timeout(10):
        while await now_ms(own_redis) == before_ms:
            pass
    await keys.end(record, "a", keep_ms=HOLD_MS)
    after_ms = await now_ms(own_redis)

    async def found(job: str, enqueued_ms: int) -> tuple[str, bool]:
        return await keys.join(record, job, hold_ms=HOLD_MS, enqueued_ms=enqueued_ms)

    assert await found("b", before_ms) == ("a", False), (
        "the first job is open until its end is stored"
    )
    assert await keys.release(record, "a") == ["b"]
    assert await found("b", before_ms) == ("a", True)
    assert await found("c", before_ms) == ("a", True), (
        "all jobs that were enqueued before the end share it"
    )
    assert await found("a", before_ms) == ("a", False), "the first job itself runs again"
    assert await keys.release(record, "a") == []
    assert await found("d", after_ms) == ("d", False), "this job was enqueued when the key was free"
    assert await found("c", before_ms) == ("d", False), "the open job comes first"
    assert await keys.release(record, "d") == ["c"]
    assert await found("e", 0) == ("e", False), "it is not known when this job was enqueued"
    ended = f"kw:dedupe_ended:{record.rpartition(':')[2]}"
    assert 0 < await own_redis.pttl(ended) <= HOLD_MS
