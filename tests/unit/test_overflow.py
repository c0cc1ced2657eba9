"""Which jobs of a full wait queue go back to the broker, until when, and when they are recalled.

With a key pool: `tests/integration/waitlist/test_waitlist_models.py`.
"""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from worker.keypool import HORIZON_MS, LeaseRequest, NoLease, NoLeaseReason
from worker.rotation import overflow
from worker.rotation.overflow import Overflow
from worker.rotation.wait_queue import Waiter, WaitQueue

NOW_S = 100.0
HORIZON_S = HORIZON_MS / 1000


class Demand:
    """The demand of one service, scripted by a test."""

    def __init__(self, *, room: int = 8, shortest: int = 0, others: bool = False) -> None:
        self.room, self.least, self.others, self.full = room, shortest, others, 0

    def capacity(self) -> int:
        return self.room

    def shortest(self, *, bulk: bool) -> int:
        assert not bulk
        return self.least

    def others_pass(self, bulk: bool) -> bool:  # noqa: FBT001 - as it is called
        assert not bulk
        return self.others

    def report_full(self) -> None:
        self.full += 1


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overflow, "time", SimpleNamespace(monotonic=lambda: NOW_S))


def queue_of(count: int) -> WaitQueue:
    queue, loop = WaitQueue("m", bulk=False, resources=("m",)), asyncio.get_running_loop()
    for number in range(count):
        queue.add(Waiter(LeaseRequest(by=f"job-{number}"), float(number), loop.create_future()))
    return queue


def made(queue: WaitQueue, **demand: Any) -> tuple[Overflow, Demand]:
    its_demand = Demand(**demand)
    return Overflow({("m",): queue}, its_demand), its_demand  # type: ignore[arg-type, dict-item]


@pytest.mark.parametrize(
    ("waiting", "shortest", "others", "goes_back", "is_full"),
    [
        (8, 4, False, False, False),
        (9, 4, False, True, False),  # jobs of another kind have room
        (9, 5, False, False, False),
        (9, 5, True, True, False),  # jobs of another service have room
        (8, 5, True, False, False),
        (8, 7, False, False, False),
        (8, 8, False, False, True),
        (8, 8, True, False, True),
        (9, 9, False, False, False),  # it was full before
    ],
)
async def test_the_youngest_job_goes_back_if_others_can_pass(
    waiting: int, shortest: int, *, others: bool, goes_back: bool, is_full: bool
) -> None:
    queue = queue_of(waiting)
    youngest = queue.waiters[-1]
    tested, demand = made(queue, shortest=shortest, others=others)
    tested.relieve(queue)
    assert [waiter is youngest for waiter in queue.waiters].count(True) == (not goes_back)
    assert len(queue.waiters) == waiting - goes_back
    assert youngest.answer.done() is goes_back
    assert demand.full == is_full


@pytest.mark.parametrize(
    ("granted_ago_s", "steps_s"),
    [
        ([], HORIZON_S),
        ([0.0], HORIZON_S),
        ([HORIZON_S, 0.5, 0.1, 0.0], HORIZON_S / 4),
        ([HORIZON_S + 0.1, 0.5, 0.1, 0.0], HORIZON_S / 3),  # one is too old
        ([HORIZON_S + 0.1], HORIZON_S),
    ],
)
async def test_a_job_comes_back_when_those_before_it_should_have_been_served(
    granted_ago_s: list[float], steps_s: float
) -> None:
    queue = queue_of(12)
    queue.granted_s.extend(NOW_S - ago_s for ago_s in granted_ago_s)
    jobs = queue.waiters[::-1]
    tested, _ = made(queue)
    for number, job in enumerate(jobs[:3]):
        tested.relieve(queue)
        answer = job.answer.result()
        assert isinstance(answer, NoLease)
        assert answer.why is NoLeaseReason.RESTING
        assert answer.first_in_ms == pytest.approx((13 + number) * steps_s * 1000, abs=1)
        assert queue.sent_back[-1][1] == job.lease_request.by


async def test_no_job_is_sent_back_for_longer_than_a_minute() -> None:
    queue = queue_of(40)
    youngest = queue.waiters[-1]
    made(queue)[0].relieve(queue)
    answer = youngest.answer.result()
    assert isinstance(answer, NoLease)
    assert (answer.first_in_ms, answer.reason) == (60_000, "many jobs of its kind wait")


@pytest.mark.parametrize(
    ("waiting", "rests_s", "back_s", "recalled", "left"),
    [
        (6, 0.0, [1, 2, 3], 2, 1),  # room for eight
        (7, 0.0, [1, 2, 3], 0, 3),  # three quarters of it are taken
        (0, 0.0, [1, 2], 2, 0),
        (0, 0.1, [1, 2], 0, 2),
        (0, -0.1, [1], 1, 0),
        (6, 0.0, [-2, -1, 1, 2], 2, 0),  # due jobs come without a recall
        (0, 0.0, [-1, 0], 1, 0),
        (0, 0.1, [-1], 0, 0),
    ],
)
async def test_as_many_jobs_are_recalled_as_there_is_room_for(
    waiting: int, rests_s: float, back_s: list[float], recalled: int, left: int
) -> None:
    queue = queue_of(waiting)
    queue.resting_until_s = NOW_S + rests_s
    queue.sent_back.extend((NOW_S + one_s, f"back-{one_s}") for one_s in back_s)
    due = [f"back-{one_s}" for one_s in back_s if one_s >= 0]
    assert made(queue)[0]._fitting(queue) == due[:recalled]
    assert len(queue.sent_back) == left


async def test_a_worker_that_ends_recalls_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    paused: list[float] = []
    sleep = asyncio.sleep

    async def pause(for_s: float) -> None:
        paused.append(for_s)
        await sleep(0)

    monkeypatch.setattr("worker.rotation.overflow.asyncio.sleep", pause)
    for closes in (False, True):
        queue, called = queue_of(9), list[list[str]]()

        async def recall(ids: list[str], called: list[list[str]] = called) -> None:
            called.append(ids)

        tested, _ = made(queue)
        tested.recall = recall
        if closes:
            tested.close()
        tested.relieve(queue)
        queue.waiters.clear()
        assert tested._recalling is not None
        await tested._recalling
        assert called == ([] if closes else [["job-8"]])
        assert tested._recalling is None
    assert paused == [overflow._RECALL_S] * 2
