"""The benchmark's jobs for the asyncio queues.

`python -m benchmarks.pool_peers <task> <jobs>` sends the jobs.
"""

import asyncio
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.pool_counter import Counter

URL = os.environ["BENCH_URL"]
KIND = os.environ["BENCH_KIND"]
CONCURRENCY = int(os.environ["BENCH_CONCURRENCY"])
NAP_S = float(os.environ.get("BENCH_NAP_S", "1"))
PAUSE_S = 0.02
"""The time between two jobs at light load."""
_AT_ONCE = 100
counter = Counter(URL)


async def _noop() -> int:
    counter.begin()
    counter.end()
    return 1


async def _nap() -> int:
    counter.begin()
    await asyncio.sleep(NAP_S)
    counter.end()
    return 1


async def _lag(sent_s: float) -> int:
    counter.begin()
    counter.lag(sent_s)
    counter.end()
    return 1


async def _many(task: str, jobs: int, send: Callable[..., Awaitable[Any]]) -> None:
    """Send jobs: many at once, or one by one, each with the time at which it is sent."""
    if task == "lag":
        took_s = []
        for _ in range(jobs):
            await asyncio.sleep(PAUSE_S)
            sent_s = time.time()
            await send(sent_s=sent_s)
            took_s.append(time.time() - sent_s)
        print(statistics.median(took_s))
        return
    for first in range(0, jobs, _AT_ONCE):
        await asyncio.gather(*(send() for _ in range(min(_AT_ONCE, jobs - first))))


if KIND in {"arq", "saq"}:

    async def noop(_ctx: Any) -> int:
        """Do nothing."""
        return await _noop()

    async def nap(_ctx: Any) -> int:
        """Wait."""
        return await _nap()

    async def lag(_ctx: Any, *, sent_s: float) -> int:
        """Report how late the job begins."""
        return await _lag(sent_s)


if KIND == "arq":
    from arq import create_pool
    from arq.connections import RedisSettings

    class WorkerSettings:
        """The settings that `arq` reads."""

        functions = (noop, nap, lag)
        redis_settings = RedisSettings.from_dsn(URL)
        max_jobs = CONCURRENCY

    async def send(task: str, jobs: int) -> None:
        """Send the jobs."""
        pool = await create_pool(RedisSettings.from_dsn(URL))
        await _many(task, jobs, lambda **given: pool.enqueue_job(task, **given))

elif KIND == "saq":
    from saq import Queue

    queue = Queue.from_url(URL)
    settings = {"queue": queue, "functions": [noop, nap, lag], "concurrency": CONCURRENCY}

    async def send(task: str, jobs: int) -> None:
        """Send the jobs."""
        await queue.connect()
        await _many(task, jobs, lambda **given: queue.enqueue(task, timeout=120, **given))

elif KIND == "taskiq":
    from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

    broker = RedisStreamBroker(URL).with_result_backend(RedisAsyncResultBackend(URL))
    TASKS = {
        "noop": broker.task(task_name="noop")(_noop),
        "nap": broker.task(task_name="nap")(_nap),
        "lag": broker.task(task_name="lag")(_lag),
    }

    async def send(task: str, jobs: int) -> None:
        """Send the jobs."""
        await broker.startup()
        await _many(task, jobs, TASKS[task].kiq)
        await broker.shutdown()

elif KIND == "streaq":
    from streaq import Worker

    worker = Worker(redis_url=URL, concurrency=CONCURRENCY)
    TASKS = {
        "noop": worker.task(name="noop")(_noop),
        "nap": worker.task(name="nap")(_nap),
        "lag": worker.task(name="lag")(_lag),
    }

    async def send(task: str, jobs: int) -> None:
        """Send the jobs."""
        async with worker:
            if task == "lag":
                await _many(
                    task, jobs, lambda **given: worker.enqueue_many([TASKS[task].enqueue(**given)])
                )
                return
            for first in range(0, jobs, _AT_ONCE):
                await worker.enqueue_many(
                    [TASKS[task].enqueue() for _ in range(min(_AT_ONCE, jobs - first))]
                )


if __name__ == "__main__":
    import benchmarks.pool_peers as bench  # noqa: PLW0406 - it is `__main__` here

    asyncio.run(bench.send(sys.argv[1], int(sys.argv[2])))
