"""The benchmark's Celery application, for our pool and Celery's own pools.

`python -m benchmarks.pool_celery <task> <jobs>` sends the jobs.
"""

import asyncio
import os
import statistics
import sys
import time
from typing import Any

from celery import Celery

from benchmarks.pool_counter import Counter

URL = os.environ["BENCH_URL"]
KIND = os.environ["BENCH_KIND"]
NAP_S = float(os.environ.get("BENCH_NAP_S", "1"))
PAUSE_S = 0.02
"""The time between two jobs at light load."""
OURS = KIND.startswith("keywheel")
STOCK_PARTS = KIND == "keywheel, stock transport"
SENDER = KIND == "keywheel by Sender"
"""Send the jobs at light load with `worker.aio.sending` instead of `apply_async`."""

app = Celery("bench", broker=URL, backend=f"worker.aio.backend:RedisBackend+{URL}" if OURS else URL)
app.conf.update(
    worker_pool="worker.aio.pool:TaskPool" if OURS else KIND,
    broker_transport="worker.aio.transport:Transport" if OURS and not STOCK_PARTS else None,
    worker_prefetch_multiplier=1 if OURS or KIND in {"threads", "gevent"} else 4,
    task_acks_late=True,
    worker_enable_remote_control=False,
    broker_pool_limit=10,
)
counter = Counter(URL)

if OURS:

    @app.task
    async def noop() -> int:
        """Do nothing."""
        counter.begin()
        counter.end()
        return 1

    @app.task
    async def nap() -> int:
        """Wait."""
        counter.begin()
        await asyncio.sleep(NAP_S)
        counter.end()
        return 1

    @app.task
    async def lag(sent_s: float) -> int:
        """Report how late the job begins."""
        counter.begin()
        counter.lag(sent_s)
        counter.end()
        return 1

else:

    @app.task
    def noop() -> int:
        """Do nothing."""
        counter.begin()
        counter.end()
        return 1

    @app.task
    def nap() -> int:
        """Wait."""
        counter.begin()
        time.sleep(NAP_S)
        counter.end()
        return 1

    @app.task
    def lag(sent_s: float) -> int:
        """Report how late the job begins."""
        counter.begin()
        counter.lag(sent_s)
        counter.end()
        return 1


def send(task: Any, jobs: int) -> None:
    """Send the jobs; print how long sending one took if they are sent one by one."""
    took_s = []
    if SENDER:
        from worker.aio.sending import Sender  # noqa: PLC0415 - the others have other packages

        sender = Sender(app)
    with app.producer_or_acquire() as producer:
        for _ in range(jobs):
            if not task.name.endswith(".lag"):
                task.apply_async(producer=producer)
                continue
            time.sleep(PAUSE_S)
            sent_s = time.time()
            if SENDER:
                sender.send(task.s(sent_s))
            else:
                task.apply_async((sent_s,), producer=producer)
            took_s.append(time.time() - sent_s)
    if took_s:
        print(statistics.median(took_s))


if __name__ == "__main__":
    # Imported under the module's own name, so that the tasks have the same names as in the worker.
    import benchmarks.pool_celery as bench  # noqa: PLW0406 - it is `__main__` here

    bench.send(getattr(bench, sys.argv[1]), int(sys.argv[2]))
