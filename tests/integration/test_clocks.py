"""The clock of a pool that nobody asks is looked at while jobs wait for its keys."""

import asyncio

from config.keys import Discovery
from config.services import SERVICES
from config.settings import Settings
from worker.runtime import open_runtime


async def test_the_clock_of_a_pool_goes_on_while_all_its_jobs_wait(redis_url: str) -> None:
    runtime = open_runtime(
        Settings(redis_url=redis_url), {service: Discovery((), ()) for service in SERVICES}
    )
    keeping = asyncio.create_task(runtime.keep_clocks(every_s=0.01))

    async def clock_ms(service: str) -> int:
        return int(await runtime.redis.hget(runtime.pools[service].names.inflight, "clock_ms") or 0)

    seen: set[int] = set()
    try:
        await runtime.outages.countdown_ms("groq", 60_000, "rate_limit")
        async with asyncio.timeout(20):
            while len(seen) < 3:
                seen.add(await clock_ms("groq"))
        assert not await clock_ms("resend"), "no job waits for that one"
    finally:
        keeping.cancel()
        await runtime.close()
