"""Which jobs pause a queue that several services share."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from worker.rotation import queue_demand
from worker.rotation.queue_demand import QueueDemand


@dataclass
class Scripted:
    """The demand of one service, scripted by a test."""

    waiting: int = 0
    room: int = 10
    rests_s: float = 0.0
    blocks: bool = False
    upcoming: list[tuple[tuple[str, ...], bool]] = field(default_factory=list)
    on_full: Callable[[], None] | None = None
    others_pass: Callable[[bool], bool] = lambda _: False

    def count(self, *, bulk: bool) -> int:
        return 0 if bulk else self.waiting

    def shortest(self, *, bulk: bool) -> int:
        return self.count(bulk=bulk)

    def capacity(self) -> int:
        return self.room

    def resting_s(self) -> float:
        return self.rests_s

    def may_block_others(self) -> bool:
        return self.blocks

    def note_upcoming(self, kinds: Iterable[tuple[tuple[str, ...], bool]]) -> None:
        self.upcoming += kinds


def shared(**services: Scripted) -> QueueDemand:
    demand = QueueDemand()
    for name, service_demand in services.items():
        demand.add(name, service_demand)
    return demand


def is_full(demand: QueueDemand) -> bool:
    return demand.shortest(bulk=False) >= demand.capacity()


@pytest.mark.parametrize("waiting", [0, 3, 10, 12])
def test_the_demand_of_a_queue_of_one_service_is_that_of_the_service(waiting: int) -> None:
    demand = shared(a=Scripted(waiting=waiting, rests_s=4.0, blocks=True))
    assert (demand.shortest(bulk=False), demand.capacity()) == (waiting, 10)
    assert (demand.count(bulk=False), demand.count(bulk=True)) == (waiting, 0)
    assert demand.resting_s() == 4.0
    assert demand.may_block_others()


def test_a_full_service_pauses_the_queue_only_if_no_other_one_is_wanted() -> None:
    demand = shared(full=Scripted(waiting=12), free=Scripted(room=20))
    assert is_full(demand), "only jobs of this service are known to come"
    demand.note_upcoming({("full", None, False), ("free", None, False)})
    assert not is_full(demand)
    assert demand.capacity() - demand.shortest(bulk=False) == 20, (
        "as many as the other service takes"
    )
    assert demand.count(bulk=False) == 12


def test_a_queue_rests_only_if_each_service_of_it_rests() -> None:
    demand = shared(resting=Scripted(rests_s=60.0), fresh=Scripted())
    assert demand.resting_s() == 60.0
    demand.note_upcoming({("resting", None, False), ("fresh", None, False)})
    assert demand.resting_s() == 0.0


def test_a_service_learns_of_its_upcoming_jobs_and_whether_others_can_pass() -> None:
    first, second = Scripted(waiting=12), Scripted(waiting=2)
    demand = shared(first=first, second=second)
    assert not first.others_pass(False)
    demand.note_upcoming(
        {("first", ("m",), False), ("second", ("n",), True), ("second", None, False)}
    )
    assert (first.upcoming, second.upcoming) == ([(("m",), False)], [(("n",), True)])
    assert first.others_pass(False)
    assert not second.others_pass(False), "the first service is full"


@pytest.mark.parametrize(
    ("waiting", "rests_s", "passes"), [(5, 0.0, True), (6, 0.0, False), (0, 0.5, False)]
)
def test_jobs_of_another_service_pass_if_half_of_its_room_is_free(
    waiting: int, rests_s: float, *, passes: bool
) -> None:
    first, second = Scripted(), Scripted(waiting=waiting, rests_s=rests_s)
    demand = shared(first=first, second=second)
    demand.note_upcoming({("second", None, False)})
    assert first.others_pass(False) is passes


@pytest.mark.parametrize(("rests_s", "wanted"), [(0.0, False), (0.5, True)])
def test_a_service_that_rests_is_wanted_if_nothing_is_known_of_the_queue(
    rests_s: float, *, wanted: bool
) -> None:
    demand = shared(resting=Scripted(room=20, rests_s=rests_s), other=Scripted(waiting=1))
    assert demand.capacity() == (20 if wanted else 10)


def test_jobs_seen_in_the_queue_are_remembered_for_a_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = SimpleNamespace(s=100.0)
    monkeypatch.setattr(queue_demand, "time", SimpleNamespace(monotonic=lambda: now.s))
    first, second = Scripted(waiting=12), Scripted()
    demand = shared(first=first, second=second)
    demand.note_upcoming({("second", None, False)})
    now.s += 2.4
    assert first.others_pass(False)
    assert not is_full(demand)
    now.s += 0.1
    assert not first.others_pass(False)
    assert is_full(demand)


def test_every_service_signals_when_it_is_full() -> None:
    signals: list[str] = []
    known = Scripted(on_full=lambda: None)
    demand = shared(new=(new := Scripted()), known=known)
    before = known.on_full
    demand.on_full(lambda: signals.append("full"))
    assert new.on_full is not None
    new.on_full()
    assert signals == ["full"]
    assert known.on_full is before
