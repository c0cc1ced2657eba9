"""The Python client while its Redis is down."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from keywheel_client import AsyncKeywheel, JobFailed, Keywheel, Unavailable
from sandbox.redis import EmbeddedRedis

DONE = json.dumps({"status": "SUCCESS", "result": {"text": "x"}})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(data_dir=tmp_path) as started:
        yield started


def store(server: EmbeddedRedis, job: str, record: str) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.set(f"celery-task-meta-{job}", record)


async def test_a_wait_goes_on_while_redis_is_down(server: EmbeddedRedis) -> None:
    url = server.url
    async with AsyncKeywheel(url) as client:
        with Keywheel(url) as blocking:
            waits = asyncio.gather(
                client.result("a", timeout_s=30),
                asyncio.to_thread(blocking.result, "b", timeout_s=30),
            )
            server.stop()
            with pytest.raises(Unavailable):
                await client.complete("x")
            with pytest.raises(Unavailable):
                await client.result("c", timeout_s=0.1)
            assert not waits.done()
            server.start()
            for job in ("a", "b"):
                store(server, job, DONE)
            assert await waits == [{"text": "x"}, {"text": "x"}]


async def test_a_client_that_is_left_has_no_connection_to_redis(
    redis_server: EmbeddedRedis,
) -> None:
    with redis.Redis.from_url(redis_server.url) as watching:

        def ids() -> set[str]:
            return {connection["id"] for connection in watching.client_list()}

        others = ids()

        async def connections_are(number: int) -> None:
            async with asyncio.timeout(10):
                while len(ids() - others) != number:  # noqa: ASYNC110 - Redis notices a moment later
                    await asyncio.sleep(0.01)

        with Keywheel(redis_server.url) as blocking:
            blocking.status("a")
            async with AsyncKeywheel(redis_server.url) as client:
                await client.status("a")
                await connections_are(2)
            await connections_are(1)
        await connections_are(0)


async def test_a_record_that_celery_did_not_write_fails_its_own_wait_alone(
    redis_server: EmbeddedRedis,
) -> None:
    store(redis_server, "broken", "no JSON")
    store(redis_server, "fine", DONE)
    failed = {"status": "FAILURE", "result": {"exc_type": "X", "exc_message": ["y"]}}
    store(redis_server, "failed", json.dumps(failed))
    async with AsyncKeywheel(redis_server.url) as client:
        jobs = [client.result(job) for job in ("broken", "fine", "failed")]
        broken, fine, other = await asyncio.gather(*jobs, return_exceptions=True)
    assert isinstance(broken, ValueError)
    assert fine == {"text": "x"}
    assert isinstance(other, JobFailed)


async def test_a_job_with_a_dedupe_key_says_by_the_clock_of_redis_when_it_was_enqueued(
    redis_server: EmbeddedRedis,
) -> None:
    with redis.Redis.from_url(redis_server.url) as broker, Keywheel(redis_server.url) as blocking:
        broker.delete("ai")
        before_s, _ = broker.time()
        blocking.complete("x", dedupe_key="a")
        async with AsyncKeywheel(redis_server.url) as client:
            await client.complete("x", dedupe_key="a")
        after_s, _ = broker.time()
        enqueued_ms = [
            json.loads(text)["headers"]["enqueued_ms"] for text in broker.lrange("ai", 0, -1)
        ]
    assert len(enqueued_ms) == 2
    assert all(before_s <= ms / 1000 < after_s + 1 for ms in enqueued_ms)
