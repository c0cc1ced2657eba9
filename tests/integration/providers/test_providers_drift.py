"""How often an unknown answer was seen, counted in Redis."""

import asyncio

import pytest
from redis.asyncio import Redis

from worker.providers import drift
from worker.providers.drift import Drift
from worker.providers.unknowns import Kind, Unknown


async def test_shapes_are_counted_in_redis_once_each_and_logged_once_by_each_process(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(drift, "MOST_SHAPES", 3)
    async with Redis.from_url(redis_url, decode_responses=True) as redis:
        first, second = Drift(redis, namespace="kw"), Drift(redis, namespace="kw")
        for counter in (first, first, second):
            counter.notice(Unknown("groq", Kind.ERROR_CODE, "400 new"))
            await counter.close()  # writes at once
        for number in range(5):
            second.notice(Unknown("groq", Kind.HEADER, f"x-ratelimit-{number}"))
            await second.close()

        shapes = [message.split(". ")[0].rpartition(": ")[2] for message in caplog.messages]
        assert shapes == ["400 new", "400 new", "x-ratelimit-0", "x-ratelimit-1"]
        assert caplog.messages[0] == (
            "Groq sent an unknown answer (error code): 400 new. "
            "`celery -A worker keys drift` lists all unknown answers"
        )
        kept = await first.seen()

        assert {(shape.kind, shape.shape): shape.count for shape in kept} == {
            ("error_code", "400 new"): 3,
            ("header", "x-ratelimit-0"): 1,
            ("header", "x-ratelimit-1"): 1,
            ("header", "(others)"): 3,
        }
        assert all(0 < shape.first_ms <= shape.last_ms for shape in kept)
        assert await redis.ttl("{kw:unknown}:count") > 0
        await redis.delete("{kw:unknown}:first_ms", "{kw:unknown}:last_ms")  # as an eviction does
        assert {(shape.first_ms, shape.last_ms) for shape in await first.seen()} == {(0, 0)}
        assert await first.forget() == 4
        assert await first.seen() == []


async def test_a_count_that_could_not_be_written_is_written_with_the_next(redis_url: str) -> None:
    async with Redis.from_url(redis_url, decode_responses=True) as redis:
        counter = Drift(redis, namespace="kw")
        await redis.set("{kw:unknown}:count", "in the way")
        counter.notice(Unknown("groq", Kind.STATUS, "418"))
        await counter.close()
        await redis.delete("{kw:unknown}:count")
        counter.notice(Unknown("groq", Kind.STATUS, "418"))
        assert counter._task is not None
        counter._task.cancel()  # as when the program ends
        await asyncio.wait([counter._task])
        await counter.close()
        assert [shape.count for shape in await counter.seen()] == [2]
