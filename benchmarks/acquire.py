"""Measures the cost of acquiring a key: `python -m benchmarks.acquire`.

One worker's client makes one call after the other, over loopback.

The floor is a script that does nothing, called through the same client; the rest of the time is
Keywheel's. "In Redis" is the time that Redis counts for an acquire and its settle together.
"""

import argparse
import asyncio
import hashlib
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr
from redis.asyncio import Redis

from config.api_key import ApiKey
from config.settings import Settings
from sandbox.redis import EmbeddedRedis
from worker.aio.loop_thread import new_loop
from worker.keypool import KeyPool, Lease, LeaseRequest
from worker.redis.client import connect
from worker.verdicts import Dimension, Fate, ObservedLimit, Verdict

_LONGEST_S = 30.0
_AT_ONCE = 16  # concurrent acquires while leases are taken out
_AMPLE = 100_000_000
_LEARNED = tuple(
    ObservedLimit(dimension, _AMPLE) for dimension in (Dimension.RPM, Dimension.RPD, Dimension.TPM)
)
_HEADERS = (
    ObservedLimit(Dimension.RPD, _AMPLE, _AMPLE - 1),
    ObservedLimit(Dimension.TPM, _AMPLE, _AMPLE - 1),
)
_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Cell:
    """Some picks under the same circumstances; times in microseconds."""

    keys: int
    leases: int
    buckets: str
    acquire_us: list[float]
    settle_us: list[float]
    in_redis_us: float

    def row(self) -> str:
        """One line of the table."""
        figures = [
            quantile(taken, share)
            for taken in (self.acquire_us, self.settle_us)
            for share in (0.5, 0.99)
        ]
        shown = "".join(f"{figure:9.0f}" for figure in (*figures, self.in_redis_us))
        return f"{self.keys:4}{self.leases:9,}  {self.buckets:8}{shown}"


def quantile(taken_us: list[float], share: float) -> float:
    """The value below which a share of all lies."""
    return statistics.quantiles(taken_us, n=1000, method="inclusive")[round(share * 1000) - 1]


def make_key(number: int) -> ApiKey:
    """A key with an account of its own, never shown to a provider."""
    secret = f"gsk_{number:052d}"
    key_id = hashlib.sha256(secret.encode()).hexdigest()[:12]
    label, variable = secret[:10] + "...", f"GROQ_API_KEY_{number}"
    return ApiKey("groq", key_id, label, SecretStr(secret), variable, account=f"org_{number}")


async def timed(taken_us: list[float], call: Callable[[], Awaitable[object]]) -> object:
    """Await a call and note its duration."""
    began = time.perf_counter()
    result = await call()
    taken_us.append((time.perf_counter() - began) * _US)
    return result


async def picks(
    pool: KeyPool,
    redis: Redis,
    lease_request: LeaseRequest,
    verdict: Verdict,
    *,
    count: int,
    leases: int,
) -> Cell:
    """Acquire a lease and settle it, many times."""
    acquire_us: list[float] = []
    settle_us: list[float] = []
    await redis.config_resetstat()
    for _ in range(count):
        lease = await timed(acquire_us, lambda: pool.acquire(lease_request))
        if not isinstance(lease, Lease):
            raise TypeError(f"there must be room for this: {lease}")
        await timed(settle_us, lambda lease=lease: pool.settle(lease, verdict))  # type: ignore[misc]
    spent = (await redis.info("commandstats"))["cmdstat_evalsha"]["usec"]
    return Cell(len(pool.keys), leases, lease_request.model, acquire_us, settle_us, spent / count)


async def floor(redis: Redis, *, count: int) -> list[float]:
    """The time of a script that does nothing."""
    nothing = redis.register_script("return 1")
    await nothing()
    taken_us: list[float] = []
    for _ in range(count):
        await timed(taken_us, nothing)
    return taken_us


async def acquire_unsettled(pool: KeyPool, lease_request: LeaseRequest, count: int) -> None:
    """Acquire leases that are never settled."""
    left = iter(range(count))

    async def acquire_some() -> None:
        for _ in left:
            await pool.acquire(lease_request)

    await asyncio.gather(*(acquire_some() for _ in range(_AT_ONCE)))


async def measure(url: str, *, keys: list[int], leases: int, count: int) -> None:
    """Measure every cell, and print its line."""
    redis = connect(Settings.model_validate({"redis_url": url}))
    print("                          acquire, µs       settle, µs  in Redis,")
    print("keys   leases  buckets       p50      p99      p50      p99       µs")
    known = LeaseRequest(model="known", resource="known", tokens=300, by="benchmark")
    unknown = LeaseRequest(model="unknown", resource="unknown", tokens=300, by="benchmark")
    taught = Verdict(fate=Fate.DONE, code="ok", status=200, limits=_HEADERS, tokens=200)
    silent = Verdict(fate=Fate.DONE, code="ok", status=200, tokens=200)
    for number in keys:
        await redis.flushdb()
        pool = KeyPool(
            redis, "groq", [make_key(index) for index in range(number)], lease_ms=300_000
        )
        for _ in range(2 * number):  # the pool learns the limits of each key
            for lease_request, limits in ((known, _LEARNED), (unknown, ())):
                lease = await pool.acquire(lease_request)
                if not isinstance(lease, Lease):
                    raise TypeError(f"the pool gave no lease although nothing was used: {lease}")
                await pool.settle(
                    lease, Verdict(fate=Fate.DONE, code="ok", status=200, limits=limits)
                )
        for out in (0, leases):
            await acquire_unsettled(pool, known, out)
            # Redis is still writing its append-only file, some megabytes for 10,000 leases.
            await picks(pool, redis, known, taught, count=count, leases=out)
            print((await picks(pool, redis, known, taught, count=count, leases=out)).row())
            print((await picks(pool, redis, unknown, silent, count=count, leases=out)).row())
    floor_us = await floor(redis, count=count)
    print(f"floor                 {quantile(floor_us, 0.5):9.0f}{quantile(floor_us, 0.99):9.0f}")
    await redis.aclose()


def main() -> None:
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keys", default="1,5,10", help="how many keys (default: 1,5,10)")
    parser.add_argument(
        "--leases",
        type=int,
        default=10_000,
        help="open leases; a line without any is added (default: 10000)",
    )
    parser.add_argument("--count", type=int, default=500, help="picks for each line (default: 500)")
    parser.add_argument("--loop", default="auto", help="auto, uvloop or asyncio (default: auto)")
    args = parser.parse_args()
    keys = [int(number) for number in args.keys.split(",")]
    with (
        tempfile.TemporaryDirectory(prefix="keywheel-bench-") as folder,
        EmbeddedRedis(data_dir=Path(folder)) as server,
        asyncio.Runner(loop_factory=lambda: new_loop(args.loop)) as runner,
    ):
        measuring = measure(server.url, keys=keys, leases=args.leases, count=args.count)
        runner.run(asyncio.wait_for(measuring, _LONGEST_S))


if __name__ == "__main__":
    main()
