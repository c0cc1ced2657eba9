"""Jobs for several models in one process: no job keeps another from its keys."""

import asyncio
import time
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.integration.waitlist.waitlist_line import MODEL, Line, outcomes
from worker.keypool import HORIZON_MS, Lease, LeaseRequest, NoLease
from worker.rotation import demand, overflow, waitlist


async def test_a_service_rests_only_if_all_kinds_of_jobs_that_came_lately_do(
    redis: Redis,
) -> None:
    line = Line(redis, patience_ms=5_000)
    await line.rest()
    outcome = await line.list.acquire(LeaseRequest(model=MODEL))
    assert isinstance(outcome, NoLease)
    assert line.list.demand.resting_s() > 50
    assert isinstance(await line.list.acquire(LeaseRequest(model="another")), Lease)
    assert line.list.demand.resting_s() == 0


async def test_lines_of_models_that_nobody_asks_for_any_more_are_forgotten(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waitlist, "_MOST_QUEUES", 3)
    await line.rest()
    waiting = await line.stand("waiting")
    for number in range(9):
        await line.list.acquire(LeaseRequest(model=str(number)))
    assert len(line.list._queues) <= 5
    await line.back()
    assert isinstance((await outcomes(waiting))[0], Lease)


def job(model: str, **options: Any) -> LeaseRequest:
    return LeaseRequest(model=model, resource=model, **options)


async def crowded(line: Line, *, jobs: int = 23) -> list[asyncio.Task[Any]]:
    """Put more jobs than fit into a line that is not served."""
    await line.rest()
    return [await line.stand(str(n), resource=MODEL, waited_ms=jobs - n) for n in range(jobs)]


async def stop(waiting: list[asyncio.Task[Any]]) -> None:
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def sent_back(line: Line, count: int) -> tuple[list[asyncio.Task[Any]], list[NoLease]]:
    """Send jobs to a full line while another model is served."""
    waiting = await crowded(line)
    assert isinstance(await line.list.acquire(job("other")), Lease)
    wants = [job(MODEL, by=f"late {n}") for n in range(count)]
    late = [
        asyncio.create_task(line.list.acquire(lease_request), name="job") for lease_request in wants
    ]
    return waiting, await outcomes(*late)


async def test_a_full_line_keeps_no_jobs_of_another_model_from_their_keys(line: Line) -> None:
    waiting, back = await sent_back(line, 3)
    assert {no_lease.reason for no_lease in back} == {"many jobs of its kind wait"}
    assert line.list.demand.shortest(bulk=False) == 0, "so the broker's queue keeps moving"
    first, *later = (no_lease.first_in_ms for no_lease in back)
    step_ms = HORIZON_MS  # no lease was given lately
    assert first == pytest.approx((len(waiting) + 2) * step_ms, abs=50), (
        "after the jobs before it have been served"
    )
    assert later == [
        pytest.approx(first + step_ms, abs=50),
        pytest.approx(first + 2 * step_ms, abs=50),
    ]
    await stop(waiting)


async def test_nobody_is_sent_back_for_longer_than_a_minute(line: Line) -> None:
    waiting, back = await sent_back(line, 20)
    assert max(no_lease.first_in_ms for no_lease in back) == 60_000
    await stop(waiting)


async def test_jobs_that_were_sent_back_are_called_in_their_order_as_soon_as_there_is_room(
    line: Line,
) -> None:
    called: asyncio.Queue[list[str]] = asyncio.Queue()
    line.list.overflow.recall = called.put
    waiting, back = await sent_back(line, 12)
    assert len(back) == 12
    assert called.empty()
    await stop(waiting)
    await line.back()
    room = line.list.demand.capacity()
    async with asyncio.timeout(10):
        calls = [*await called.get(), *await called.get()]
    assert calls == [f"late {n}" for n in range(12)]
    assert room < 12, "not more jobs than have room at once"
    async with asyncio.timeout(10):  # so that a line that fills up later begins anew
        while line.list.overflow._recalling is not None:  # noqa: ASYNC110 - it notifies nobody
            await asyncio.sleep(0)


async def test_a_process_that_ends_calls_no_jobs_back(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: asyncio.Queue[list[str]] = asyncio.Queue()
    monkeypatch.setattr(overflow, "_RECALL_S", 0.01)
    line.list.overflow.recall = called.put
    waiting, _ = await sent_back(line, 1)
    recalling = line.list.overflow._recalling
    assert recalling is not None
    line.list.close()
    await stop(waiting)
    await recalling
    assert called.empty()


async def test_jobs_that_cannot_be_served_are_not_called_although_there_is_room(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: asyncio.Queue[list[str]] = asyncio.Queue()
    monkeypatch.setattr(overflow, "_RECALL_S", 0.01)
    line.list.overflow.recall = called.put
    waiting, _ = await sent_back(line, 1)
    await stop(waiting)
    [queue] = [queue for queue in line.list._queues.values() if queue.resources == (MODEL,)]
    queue.resting_until_s = time.monotonic() + 60
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await called.get()
    line.list.wake()
    async with asyncio.timeout(10):
        assert await called.get() == ["late 0"]


@pytest.mark.parametrize("bulk", [False, True])
async def test_a_queue_flows_on_for_a_model_that_was_only_seen_in_it(
    line: Line,
    bulk: bool,  # noqa: FBT001
) -> None:
    waiting = await crowded(line)
    assert line.list.demand.may_block_others()
    assert line.list.demand.shortest(bulk=False) == len(waiting)
    line.list.demand.note_upcoming([((MODEL,), False)])
    assert line.list.demand.shortest(bulk=False) == len(waiting), (
        "as many jobs of this model wait as may wait"
    )
    line.list.demand.note_upcoming([(("other",), bulk)])
    assert line.list.demand.shortest(bulk=bulk) == 0
    assert line.list.demand.shortest(bulk=False) == (len(waiting) if bulk else 0)
    late = await line.list.acquire(job(MODEL, by="late"), longest_s=0)
    assert late.reason == ("rate_limit" if bulk else "many jobs of its kind wait")  # type: ignore[union-attr]
    await stop(waiting)


async def test_a_service_does_not_rest_for_a_model_that_was_seen_in_its_queue(
    redis: Redis,
) -> None:
    line = Line(redis, patience_ms=1)
    await line.rest()
    assert not line.list.demand.may_block_others()
    assert isinstance(await line.list.acquire(job(MODEL)), NoLease)
    assert line.list.demand.may_block_others()
    assert line.list.demand.resting_s() > 50
    line.list.demand.note_upcoming([((MODEL,), False)])
    assert line.list.demand.resting_s() > 50
    line.list.demand.note_upcoming([(("other",), True)])
    assert line.list.demand.resting_s() == 0
    assert isinstance(await line.list.acquire(job("other", bulk=True)), Lease)
    assert line.list.demand.resting_s() == 0
    line.list.demand.note_upcoming([(("other",), True)])
    assert line.list.demand.resting_s() == 0, "the model has its own line now"


async def test_jobs_that_were_seen_once_in_the_queue_keep_it_flowing_for_a_while_only(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = await crowded(line)
    line.list.demand.note_upcoming([(("other",), False)])
    assert line.list.demand.shortest(bulk=False) == 0
    monkeypatch.setattr(demand, "_UPCOMING_S", 0.0)
    assert line.list.demand.shortest(bulk=False) == len(waiting)
    await stop(waiting)
