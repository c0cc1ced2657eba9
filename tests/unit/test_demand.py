"""How many jobs may wait in a process for a service's keys, and what backpressure is told."""

import asyncio
from collections.abc import Iterable

import pytest

from worker.keypool import HORIZON_MS, TENANT_HORIZON_MS, LeaseRequest
from worker.rotation import demand as demands
from worker.rotation.demand import Demand
from worker.rotation.wait_queue import Waiter, WaitQueue

HORIZON_S = HORIZON_MS / 1000


class Clock:
    def __init__(self) -> None:
        self.s = 1_000.0

    def monotonic(self) -> float:
        return self.s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(demands, "time", fake)
    return fake


class Line(WaitQueue):
    """A queue of `waiting` jobs, which a job has just entered."""

    __slots__ = ()

    def __init__(
        self, waiting: int = 0, *, model: str = "m", bulk: bool = False, listed: bool = True
    ) -> None:
        super().__init__(model if listed else "", bulk, (model,))
        self.waiters = [Waiter(LeaseRequest(), 0.0, asyncio.Future()) for _ in range(waiting)]
        self.used_s = 1_000.0


def demand_of(*lines: WaitQueue) -> Demand:
    return Demand({(str(n),): line for n, line in enumerate(lines)})  # type: ignore[misc]


async def test_as_many_may_wait_as_got_leases_lately_and_always_a_few(clock: Clock) -> None:
    line = Line()
    demand = demand_of(line)
    assert demand.capacity() == 8
    for _ in range(50):
        demand.note_granted(line)
    assert demand.capacity() == len(line.granted_s) == 50
    clock.s += HORIZON_S / 2
    for _ in range(9):
        demand.note_granted(line)
    assert demand.capacity() == len(line.granted_s) == 59
    clock.s += HORIZON_S / 2
    assert demand.capacity() == 59, "leases exactly as old as the horizon still count"
    demand.note_granted(line)
    assert demand.capacity() == len(line.granted_s) == 60
    clock.s += 0.001
    assert demand.capacity() == 10
    demand.note_granted(line)
    assert demand.capacity() == len(line.granted_s) == 11
    clock.s += HORIZON_S
    assert demand.capacity() == 8


async def test_while_tenants_take_turns_fewer_may_wait(clock: Clock) -> None:
    line = Line()
    demand = demand_of(line)
    demand.note_tenant()
    for _ in range(100):
        demand.note_granted(line)
    assert demand.capacity() == 32
    clock.s += TENANT_HORIZON_MS / 1000 + 0.001
    assert demand.capacity() == 8
    clock.s += 9.7
    for _ in range(20):
        demand.note_granted(line)
    assert demand.capacity() == 20
    clock.s += 0.1
    assert demand.capacity() == 20, (
        "leases of the whole horizon count, because no tenant came for ten seconds"
    )
    clock.s += TENANT_HORIZON_MS / 1000
    assert demand.capacity() == 20


async def test_a_process_remembers_a_bounded_number_of_leases(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demands, "_MOST_GRANTS", 20)
    line = Line()
    demand = demand_of(line)
    for _ in range(30):
        clock.s += 0.001
        demand.note_granted(line)
    assert len(line.granted_s) == 20


async def test_a_lease_ends_a_rest(clock: Clock) -> None:
    line = Line()
    line.resting_until_s = clock.s + 60
    demand_of(line).note_granted(line)
    assert line.resting_until_s == 0.0


async def test_jobs_are_counted_by_their_priority() -> None:
    demand = demand_of(Line(3), Line(4, bulk=True), Line(5, model="n", listed=False))
    assert (demand.count(bulk=False), demand.count(bulk=True)) == (8, 4)


async def test_backpressure_is_called_where_it_listens() -> None:
    demand, calls = demand_of(), list[str]()
    demand.report_full()
    demand.on_full = lambda: calls.append("full")
    demand.report_full()
    assert calls == ["full"]
    assert not demand.others_pass(False)


def kinds(*names: str) -> Iterable[tuple[tuple[str, ...], bool]]:
    return [((name.removesuffix(" bulk"),), name.endswith(" bulk")) for name in names]


# The models in the broker's queue, and the shortest line of interactive jobs, and of bulk jobs.
@pytest.mark.parametrize(
    ("upcoming", "shortest", "shortest_bulk"),
    [
        ([], 3, 4),  # unknown: the lines that jobs entered lately
        (["n"], 5, 4),
        (["m", "n"], 3, 4),
        (["m bulk"], 3, 4),
        (["x"], 0, 4),  # it has no line yet
        (["n", "x"], 0, 4),
        (["x bulk"], 3, 0),
        (["rests"], 0, 4),  # no key serves it, so its line has no room
    ],
)
async def test_the_shortest_line_is_one_that_jobs_are_expected_in(
    clock: Clock, upcoming: list[str], *, shortest: int, shortest_bulk: int
) -> None:
    rests = Line(1, model="rests")
    rests.resting_until_s = clock.s + 60
    unused = Line(0, model="unused")
    unused.used_s = clock.s - 10
    demand = demand_of(
        Line(3),
        Line(5, model="n"),
        Line(4, bulk=True),
        Line(0, model="alone", listed=False),
        rests,
        unused,
    )
    demand.note_upcoming(kinds(*upcoming))
    shortest_lines = demand.shortest(bulk=False), demand.shortest(bulk=True)
    assert shortest_lines == (shortest, shortest_bulk)


async def test_jobs_that_were_seen_in_the_broker_are_forgotten_after_a_while(clock: Clock) -> None:
    demand = demand_of(Line(3), Line(5, model="n"))
    demand.note_upcoming(kinds("x"))
    clock.s += 2
    demand.note_upcoming(kinds("n"))
    assert demand.shortest(bulk=False) == 0
    clock.s += 0.5
    assert demand.shortest(bulk=False) == 5
    clock.s += 2
    assert demand.shortest(bulk=False) == 3


async def test_a_service_rests_until_the_first_of_the_lines_that_are_expected_is_served(
    clock: Clock,
) -> None:
    first, second = Line(1), Line(1, model="n", bulk=True)
    demand = demand_of(first, second)
    assert demand_of().resting_s() == demand.resting_s() == 0.0
    first.resting_until_s = clock.s + 60
    assert demand.resting_s() == 0.0
    second.resting_until_s = clock.s + 40
    assert demand.resting_s() == 40.0
    demand.note_upcoming(kinds("m"))
    assert demand.resting_s() == 60.0
    demand.note_upcoming(kinds("x"))
    assert demand.resting_s() == 0.0, "the new line may be served"
    clock.s += 50
    assert demand.resting_s() == 10.0, "jobs no longer come to the other line"
    clock.s += 15
    assert demand.resting_s() == 0.0


@pytest.mark.parametrize(
    ("waiting", "rests_s", "listed", "blocks"),
    [
        (0, 0.0, True, False),
        (3, 0.0, True, False),
        (4, 0.0, True, True),  # half of the jobs that may wait
        (4, 0.0, False, False),  # they take what they can get
        (0, 0.1, True, True),
        (0, 0.1, False, False),
    ],
)
async def test_jobs_of_one_kind_may_keep_others_in_the_broker_once_there_are_many_of_them(
    clock: Clock, waiting: int, *, rests_s: float, listed: bool, blocks: bool
) -> None:
    line = Line(waiting, listed=listed)
    line.resting_until_s = clock.s + rests_s if rests_s else 0.0
    assert demand_of(line, Line(1, model="n")).may_block_others() is blocks
