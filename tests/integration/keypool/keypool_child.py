"""A process that requests many leases at once: `python keypool_child.py URL COUNT`.

It prints how many leases it got.
"""

import asyncio
import sys

from redis.asyncio import BlockingConnectionPool, Redis

from tests.integration.keypool.conftest import make_key
from worker.keypool import KeyPool, Lease, LeaseRequest


async def main(url: str, count: int) -> None:
    connections = BlockingConnectionPool.from_url(url, decode_responses=True, max_connections=16)
    async with Redis.from_pool(connections) as redis:
        await redis.ping()
        print("ready", flush=True)  # noqa: T201 - the test reads it
        await asyncio.to_thread(sys.stdin.readline)
        pool = KeyPool(redis, "groq", [make_key(0)], horizon_ms=0)
        outcomes = await asyncio.gather(*(pool.acquire(LeaseRequest()) for _ in range(count)))
        print(sum(isinstance(outcome, Lease) for outcome in outcomes))  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
