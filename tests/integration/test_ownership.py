"""A worker that stood still checks whether its jobs are still its own; others do not check."""

from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import Ignore
from redis.asyncio import Redis

from worker.jobs import ownership
from worker.jobs.ownership import Ownership

LEASE_S = 60.0


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def monotonic(self) -> float:
        self.now_s += 0.001
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    manual = Clock()
    monkeypatch.setattr(ownership, "time", manual)
    return manual


def request(tag: str | None = "tag@1f") -> Any:
    return SimpleNamespace(id="job-1", properties={"delivery_tag": tag} if tag else None)


@pytest.mark.parametrize(
    ("still_s", "held", "lost"), [(31, False, True), (31, True, False), (29, False, False)]
)
async def test_only_a_worker_that_stood_still_loses_jobs_that_others_have(
    broker: Redis,
    clock: Clock,
    still_s: float,
    held: bool,  # noqa: FBT001
    lost: bool,  # noqa: FBT001
) -> None:
    if held:
        await broker.hset("unacked", "tag@1f", "entry")
    jobs = Ownership(broker, lease_s=LEASE_S)
    jobs.begin(request())
    clock.now_s += still_s
    if lost:
        with pytest.raises(Ignore):
            await jobs.end_if_lost()
    else:
        await jobs.end_if_lost()


async def test_a_turn_that_began_after_the_standstill_is_not_asked_for(
    broker: Redis, clock: Clock
) -> None:
    jobs = Ownership(broker, lease_s=LEASE_S)
    clock.now_s += 1_000
    jobs.begin(request())
    await jobs.end_if_lost()


@pytest.mark.parametrize("lease_s", [0, LEASE_S])
async def test_without_acknowledgements_or_leases_no_job_asks(
    broker: Redis, clock: Clock, lease_s: float
) -> None:
    jobs = Ownership(None if lease_s else broker, lease_s=lease_s)
    jobs.begin(request())
    clock.now_s += 1_000
    await jobs.end_if_lost()


async def test_a_job_without_a_message_is_its_own(broker: Redis, clock: Clock) -> None:
    jobs = Ownership(broker, lease_s=LEASE_S)
    jobs.begin(request(None))
    clock.now_s += 1_000
    await jobs.end_if_lost()
