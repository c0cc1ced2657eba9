"""A line of jobs in one process, with a pool of one key on a real Redis."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from redis.asyncio import Redis

from config.api_key import make_key
from worker.keypool import KeyPool, Lease, LeaseRequest, NoLease
from worker.rotation.waitlist import WaitList
from worker.verdicts import Effect, Fate, Scope, Verdict

SECRET = "gsk_abc1230123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJ"
OK = Verdict(Fate.DONE, "ok", status=200)
MODEL = "m"


def resting(cooldown_ms: int) -> Verdict:
    return Verdict(
        Fate.NEXT_KEY,
        "rate_limit",
        effect=Effect.COOL,
        scope=Scope.ACCOUNT_MODEL,
        cooldown_ms=cooldown_ms,
        status=429,
    )


class Line:
    """A wait list and its pool of one key; `log` lists the jobs that got a lease, in order."""

    def __init__(self, redis: Redis, **options: Any) -> None:
        self.redis = redis
        key = make_key("groq", secret=SECRET, variable="GROQ_API_KEY")
        self.pool = KeyPool(
            redis, "groq", [key], **({"opening": 1_000, "patience_ms": 600_000} | options)
        )
        self.list = WaitList(self.pool)
        self.log: list[str] = []
        self.asks = 0
        self.ask = self.pool.acquire
        self.pool.acquire = self._counted  # type: ignore[method-assign]

    async def _counted(self, *args: Any) -> Lease | NoLease:
        self.asks += 1
        outcome = await self.ask(*args)
        # A job that asks again does so from its wake-up on.
        return outcome if isinstance(outcome, Lease) else replace(outcome, ask_in_ms=600_000)

    async def lease(self, **lease_request: Any) -> Lease:
        outcome = await self.ask(LeaseRequest(**({"model": MODEL} | lease_request)))
        assert isinstance(outcome, Lease)
        return outcome

    async def rest(self, cooldown_ms: int = 60_000) -> None:
        await self.pool.settle(await self.lease(), resting(cooldown_ms))

    async def back(self) -> None:
        await self.pool.reset(by="test")
        self.list.wake()

    def come_back_while_it_asks(self) -> None:
        """Bring the keys back after Redis has answered the next request and before we read it."""
        ask = self.ask

        async def stale(*args: Any) -> Lease | NoLease:
            outcome = await ask(*args)
            self.ask = ask
            await self.back()
            return outcome

        self.ask = stale

    async def stand(
        self, name: str, *, longest_s: float | None = None, **lease_request: Any
    ) -> asyncio.Task[Any]:
        """Put a job in the line."""

        async def job() -> Lease | NoLease:
            outcome = await self.list.acquire(
                LeaseRequest(**({"model": MODEL, "by": name} | lease_request)), longest_s=longest_s
            )
            self.log.append(name)
            return outcome

        before = self.waiting()
        task = asyncio.create_task(job(), name="job")
        async with asyncio.timeout(10):
            while self.waiting() == before:  # noqa: ASYNC110 - a line notifies nobody
                await asyncio.sleep(0)
        return task

    def waiting(self) -> int:
        return self.list.demand.count(bulk=False) + self.list.demand.count(bulk=True)

    async def entries(self, wait_list: str = MODEL) -> tuple[int, int]:
        name = self.pool.names.waiting(wait_list)
        return await self.redis.zcard(name), await self.redis.zcard(f"{name}:due")

    async def leases_out(self) -> int:
        return int(await self.redis.zcard(self.pool.names.leases))


async def outcomes(*jobs: asyncio.Task[Any]) -> list[Any]:
    async with asyncio.timeout(10):
        return await asyncio.gather(*jobs, return_exceptions=True)


async def until(check: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not await check():  # noqa: ASYNC110 - what is awaited happens in Redis
            await asyncio.sleep(0.005)
