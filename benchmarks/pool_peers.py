"""The benchmark's jobs for the asyncio queues: `python pool_peers.py <task> <jobs>` sends the jobs."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from pool_counter import Counter

URL = os.environ["BENCH_URL"]
KIND = os.environ["BENCH_KIND"]
CONCURRENCY = int(os.environ["BENCH_CONCURRENCY"])
_AT_ONCE = 100
counter = Counter(URL)


async def _noop() -> int:
    counter.begin()
    counter.end()
    return 1


async def _nap() -> int:
    counter.begin()
    await asyncio.sleep(1)
    counter.end()
    return 1


async def _many(jobs: int, one: Callable[[], Awaitable[Any]]) -> None:
    for first in range(0, jobs, _AT_ONCE):
        await asyncio.gather(*(one() for _ in range(min(_AT_ONCE, jobs - first))))


if KIND == "arq":
    from arq import create_pool
    from arq.connections import RedisSettings

    async def noop(_ctx: Any) -> int:
        """Nothing."""
        return await _noop()

    async def nap(_ctx: Any) -> int:
        """A second of waiting."""
        return await _nap()

    class WorkerSettings:
        """What `arq` reads."""

        functions = (noop, nap)
        redis_settings = RedisSettings.from_dsn(URL)
        max_jobs = CONCURRENCY

    async def send(task: str, jobs: int) -> None:
        """Send as many jobs."""
        pool = await create_pool(RedisSettings.from_dsn(URL))
        await _many(jobs, lambda: pool.enqueue_job(task))

elif KIND == "saq":
    from saq import Queue

    queue = Queue.from_url(URL)

    async def noop(_ctx: Any) -> int:
        """Nothing."""
        return await _noop()

    async def nap(_ctx: Any) -> int:
        """A second of waiting."""
        return await _nap()

    settings = {"queue": queue, "functions": [noop, nap], "concurrency": CONCURRENCY}

    async def send(task: str, jobs: int) -> None:
        """Send as many jobs."""
        await queue.connect()
        await _many(jobs, lambda: queue.enqueue(task, timeout=120))

elif KIND == "taskiq":
    from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

    broker = RedisStreamBroker(URL).with_result_backend(RedisAsyncResultBackend(URL))
    TASKS = {"noop": broker.task(task_name="noop")(_noop), "nap": broker.task(task_name="nap")(_nap)}

    async def send(task: str, jobs: int) -> None:
        """Send as many jobs."""
        await broker.startup()
        await _many(jobs, TASKS[task].kiq)
        await broker.shutdown()

elif KIND == "streaq":
    from streaq import Worker

    worker = Worker(redis_url=URL, concurrency=CONCURRENCY)
    TASKS = {"noop": worker.task(name="noop")(_noop), "nap": worker.task(name="nap")(_nap)}

    async def send(task: str, jobs: int) -> None:
        """Send as many jobs."""
        async with worker:
            for first in range(0, jobs, _AT_ONCE):
                await worker.enqueue_many([TASKS[task].enqueue() for _ in range(min(_AT_ONCE, jobs - first))])


if __name__ == "__main__":
    import pool_peers

    asyncio.run(pool_peers.send(sys.argv[1], int(sys.argv[2])))
