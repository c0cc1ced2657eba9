"""The jobs of a process that wait for a key, with a scripted pool."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from config.api_key import make_key
from worker.keypool import Lease, LeaseRequest, Line, NoLease, NoLeaseReason
from worker.rotation import wait_queue
from worker.rotation.waitlist import WaitList

KEY = make_key("groq", secret=f"gsk_{0:046}", variable="GROQ_API_KEY")
LEASE = Lease("lease", KEY, "a", LeaseRequest(), 0)
WAIT = NoLease(NoLeaseReason.WAIT, ask_in_ms=3_600_000, reason="rpm")
JOB = LeaseRequest(model="m", resource="m", by="job")


class Pool:
    """A pool with scripted answers, which notes each request."""

    def __init__(self) -> None:
        self.answer: Lease | NoLease = LEASE
        self.requests: list[tuple[LeaseRequest, Line | None]] = []
        self.left: list[Line] = []
        self.settled: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def acquire(self, request: LeaseRequest, line: Line | None) -> Lease | NoLease:
        self.requests.append((request, line))
        await self.gate.wait()
        return self.answer

    async def leave(self, line: Line) -> None:
        self.left.append(line)

    async def settle(self, lease: Lease, verdict: Any) -> None:
        self.settled.append((lease, verdict))


@asynccontextmanager
async def opened(pool: Pool) -> AsyncIterator[WaitList]:
    made = WaitList(cast("Any", pool))
    yield made
    made.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def stand(waiting: WaitList, request: LeaseRequest = JOB, **more: Any) -> asyncio.Task[Any]:
    job = asyncio.ensure_future(waiting.acquire(request, **more))
    await turns()
    return job


def count(waiting: WaitList) -> int:
    return waiting.demand.count(bulk=False) + waiting.demand.count(bulk=True)


@pytest.fixture
def pool() -> Pool:
    return Pool()


@pytest.fixture
async def waiting(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WaitList]:
    monkeypatch.setattr(wait_queue, "_SETTLE_S", 0.0)
    async with opened(pool) as made:
        yield made
