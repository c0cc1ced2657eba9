"""Small parts of backpressure.

The whole of it is in `tests/workers/keywheel/test_worker_backpressure.py`.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker.request import Request
from kombu.asynchronous.timer import Timer

from worker.hooks import backpressure
from worker.hooks.backpressure import _run_held


def held(queue: str) -> Any:
    request = Request.__new__(Request)
    request._delivery_info = {"routing_key": queue}
    return request


def test_jobs_that_a_reset_runs_leave_nothing_behind_in_the_timer() -> None:
    timer, ran = Timer(), []
    for number in range(20):
        queue = "ai.deferred" if number % 2 else "email.deferred"
        timer.call_after(600 - number, ran.append, (held(queue),))
    _run_held(SimpleNamespace(timer=SimpleNamespace(schedule=timer)), "ai")
    assert [request.delivery_info["routing_key"] for request in ran] == ["ai.deferred"] * 10
    assert len(timer) == 10
    instants = [scheduled.eta for scheduled in timer.queue]
    assert instants == sorted(instants)


def test_jobs_whose_producers_gave_an_instant_wait_for_it_whatever_the_keys_do() -> None:
    timer = Timer()
    parent = SimpleNamespace(timer=SimpleNamespace(schedule=timer))
    timer.call_after(600, pytest.fail, (held("ai"),))
    timer.call_after(600, lambda _: None, (held("ai.deferred"),))
    assert backpressure._held_by_queue(parent) == {"ai": 1}
    _run_held(parent, "ai")
    assert len(timer) == 1


class Demand:
    """Nothing waits, unless a test says so."""

    waiting, bulk, rests_s = 0, 0, 0.0

    def count(self, *, bulk: bool) -> int:
        return self.bulk if bulk else self.waiting

    def shortest(self, *, bulk: bool) -> int:
        return self.count(bulk=bulk)

    def resting_s(self) -> float:
        return self.rests_s

    def capacity(self) -> int:
        return 100

    def may_block_others(self) -> bool:
        return False

    def on_full(self, notify: Callable[[], None]) -> None:
        pass


def ignore(*_: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("changes", "limits", "looks"),
    [
        ({}, True, 2),  # two wake-ups of the consumer a second; with all others it was 14
        ({"waiting": 1}, True, 10),
        ({"rests_s": 60.0}, True, 10),
        ({}, False, 10),  # a transport that knows no limits holds deferred jobs
    ],
)
def test_the_consumer_is_woken_for_backpressure_as_often_as_needed(
    monkeypatch: pytest.MonkeyPatch, *, changes: dict[str, Any], limits: bool, looks: int
) -> None:
    demand, timer, delays = Demand(), Timer(), list[float]()
    vars(demand).update(changes)
    monkeypatch.setattr(backpressure, "_demands_of", lambda _: {"ai": demand})

    def call_after(delay_s: float, *_: Any) -> Any:
        delays.append(delay_s)
        return SimpleNamespace()

    names = ("take_at_most", "take_urgent_only") if limits else ()
    consumer = SimpleNamespace(channel=SimpleNamespace(**dict.fromkeys(names, ignore)), queues=[])
    parent = SimpleNamespace(
        timer=SimpleNamespace(schedule=timer, call_after=call_after),
        task_consumer=consumer,
        pool=SimpleNamespace(limit=100),
    )
    pauser = backpressure.QueuePauser(parent)
    pauser.start(parent)
    pauser._tick(parent)
    assert [round(1 / delay_s) for delay_s in delays] == [10, looks]


def test_a_paused_queue_resumes_when_its_wait_list_is_half_empty() -> None:
    pauser = backpressure.QueuePauser(SimpleNamespace())
    demand, queue, resumed = Demand(), SimpleNamespace(name="ai"), []
    consumer = SimpleNamespace(
        channel=SimpleNamespace(take_urgent_only=ignore),
        queues=[queue],
        cancel_by_queue=ignore,
        add_queue=resumed.append,
        consume=lambda: None,
    )
    app = SimpleNamespace(amqp=SimpleNamespace(queues=SimpleNamespace(consume_from=["ai"])))
    parent = SimpleNamespace(task_consumer=consumer, pool=SimpleNamespace(limit=100), app=app)
    for demand.waiting in (99, 100, 51):
        pauser._pause_or_resume(parent, "ai", demand, 0)  # type: ignore[arg-type]
    assert pauser.paused == {"ai": queue}
    demand.waiting = 50
    pauser._pause_or_resume(parent, "ai", demand, 0)  # type: ignore[arg-type]
    assert (pauser.paused, resumed) == ({}, [queue])


class Channel:
    """A consumer of two queues that says what it was told to leave to others."""

    def __init__(self, *, by_priority: bool = True) -> None:
        self.for_urgent_only: set[str] = set()
        if by_priority:
            self.take_urgent_only = self._take_urgent_only

    def _take_urgent_only(self, queue: str, below: int | None) -> None:
        (self.for_urgent_only.discard if below is None else self.for_urgent_only.add)(queue)


def parent_of(*, limit: int | None = 100, by_priority: bool = True) -> Any:
    queues = ["ai", "ai.deferred"]
    return SimpleNamespace(
        task_consumer=SimpleNamespace(
            channel=Channel(by_priority=by_priority),
            queues=[SimpleNamespace(name=name) for name in queues],
            cancel_by_queue=ignore,
            add_queue=ignore,
            consume=lambda: None,
        ),
        pool=SimpleNamespace(limit=limit),
        app=SimpleNamespace(amqp=SimpleNamespace(queues=SimpleNamespace(consume_from=queues))),
    )


def state_of(pauser: backpressure.QueuePauser, parent: Any) -> set[str]:
    for_bulk = parent.task_consumer.channel.for_urgent_only
    assert for_bulk == ({"ai", "ai.deferred"} if pauser.paused_for_bulk else set())
    return {*pauser.paused, *(f"{queue} for bulk" for queue in pauser.paused_for_bulk)}


BOTH = {"ai", "ai.deferred"}


@pytest.mark.parametrize(
    ("demand", "held", "paused_then", "paused_after"),
    [
        ({}, 0, set(), set()),
        # jobs that wait here for a key, and room for 100
        ({"waiting": 99}, 0, set(), BOTH),
        ({"waiting": 100}, 0, BOTH, BOTH),
        ({"waiting": 51}, 0, set(), BOTH),
        ({"waiting": 50}, 0, set(), set()),
        # bulk jobs keep only others of their kind out
        ({"bulk": 99}, 0, set(), {"ai for bulk"}),
        ({"bulk": 100}, 0, {"ai for bulk"}, {"ai for bulk"}),
        ({"bulk": 51}, 0, set(), {"ai for bulk"}),
        ({"bulk": 50}, 0, set(), set()),
        # jobs that the timer holds keep none of the deferred ones out
        ({}, 99, set(), {"ai"}),
        ({}, 100, {"ai"}, {"ai"}),
        ({}, 51, set(), {"ai"}),
        ({}, 50, set(), set()),
        # no key may be called for a while
        ({"rests_s": 1.0}, 0, {"ai"}, {"ai"}),
        ({"rests_s": 1.0, "waiting": 51}, 0, {"ai"}, BOTH),
    ],
)
def test_a_queue_is_paused_by_what_waits_and_resumed_by_half_of_it(
    demand: dict[str, Any], held: int, paused_then: set[str], paused_after: set[str]
) -> None:
    """From a state in which nothing is paused, and from one in which all is."""
    parent, now = parent_of(), Demand()
    vars(now).update(demand)
    for before, after in (({}, paused_then), ({"waiting": 200, "bulk": 200}, paused_after)):
        pauser, earlier = backpressure.QueuePauser(SimpleNamespace()), Demand()
        vars(earlier).update(before)
        pauser._legible["ai"] = True
        pauser._pause_or_resume(parent, "ai", earlier, 0)  # type: ignore[arg-type]
        pauser._pause_or_resume(parent, "ai", now, held)  # type: ignore[arg-type]
        assert state_of(pauser, parent) == after
        parent = parent_of()


def test_a_pause_is_told_once_a_minute_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pauser, parent, demand, now_s = (
        backpressure.QueuePauser(SimpleNamespace()),
        parent_of(),
        Demand(),
        1_000.0,
    )
    monkeypatch.setattr(backpressure.time, "monotonic", lambda: now_s)

    def told(*, bulk: int, waiting: int, rests_s: float = 0.0, held: int = 0) -> list[str]:
        caplog.clear()
        demand.bulk, demand.waiting, demand.rests_s = bulk, waiting, rests_s
        pauser._legible["ai"] = True
        pauser._pause_or_resume(parent, "ai", demand, held)  # type: ignore[arg-type]
        return [record.getMessage() for record in caplog.records if record.levelname == "INFO"]

    caplog.set_level("DEBUG")
    for after_s, is_told in ((0.0, True), (60.0, False), (0.1, True)):
        now_s += after_s
        paused = told(bulk=0, waiting=200, held=20)
        assert paused == ["⏸️ Queue ai paused: 220 jobs wait here for a key"] * is_told
        assert "Queue ai.deferred paused: 200 jobs wait here for a key" in caplog.text
        assert told(bulk=0, waiting=0) == ["▶️ Queue ai resumed"] * is_told
        assert "Queue ai.deferred resumed" in caplog.text
    now_s += 61
    assert told(bulk=0, waiting=0, rests_s=9.0) == [
        "⏸️ Queue ai paused: no key may be called for a while"
    ]
    assert told(bulk=200, waiting=0, rests_s=9.0) == [
        "⏸️ Queue ai paused for bulk jobs: 200 of them wait here for a key"
    ]
    assert told(bulk=0, waiting=0, rests_s=9.0) == ["▶️ Queue ai resumed for bulk jobs"]


@pytest.mark.parametrize(
    ("limit", "held", "is_paused"), [(10, 49, False), (10, 50, True), (None, 50, True)]
)
def test_a_small_pool_may_hold_a_few_jobs(limit: int | None, held: int, *, is_paused: bool) -> None:
    pauser, parent = backpressure.QueuePauser(SimpleNamespace()), parent_of(limit=limit)
    pauser._pause_or_resume(parent, "ai", Demand(), held)  # type: ignore[arg-type]
    assert bool(pauser.paused) is is_paused


@pytest.mark.parametrize(("waiting", "paused"), [(59, set()), (60, BOTH)])
def test_a_transport_that_takes_all_of_a_queue_counts_bulk_jobs_with_the_others(
    waiting: int, paused: set[str]
) -> None:
    pauser, parent = backpressure.QueuePauser(SimpleNamespace()), parent_of(by_priority=False)
    demand = Demand()
    demand.bulk, demand.waiting = 40, waiting
    pauser._pause_or_resume(parent, "ai", demand, 0)  # type: ignore[arg-type]
    assert state_of(pauser, parent) == paused


@pytest.mark.parametrize("legible", [True, False])
def test_jobs_that_cannot_be_read_are_let_through_now_and_then_while_keys_rest(
    monkeypatch: pytest.MonkeyPatch, *, legible: bool
) -> None:
    clock = SimpleNamespace(now_s=100.0)
    clock.monotonic = lambda: clock.now_s
    monkeypatch.setattr(backpressure, "time", clock)
    pauser, parent, demand = backpressure.QueuePauser(SimpleNamespace()), parent_of(), Demand()
    pauser._legible["ai"], demand.rests_s, resumed_s = legible, 60.0, []
    for tenths in range(1000, 1120):
        clock.now_s, was_paused = tenths / 10, "ai" in pauser.paused
        pauser._pause_or_resume(parent, "ai", demand, 0)  # type: ignore[arg-type]
        if was_paused and "ai" not in pauser.paused:
            resumed_s.append(clock.now_s)
    assert resumed_s == ([] if legible else [105.0, 110.0])


@pytest.mark.parametrize(
    ("waiting", "blocks", "rests_s", "more"),
    [
        (0, False, 0.0, 20),
        (5, False, 0.0, 15),
        (20, False, 0.0, 0),
        (0, True, 0.0, 64),  # those before the others are only sent back
        (5, True, 0.0, 15),
        (0, True, 1.0, 20),
    ],
)
def test_as_many_more_are_taken_as_there_is_room_for(
    waiting: int,
    rests_s: float,
    more: int,
    *,
    blocks: bool,
) -> None:
    demand = SimpleNamespace(
        capacity=lambda: 20,
        shortest=lambda bulk: 99 if bulk else waiting,
        may_block_others=lambda: blocks,
        resting_s=lambda: rests_s,
    )
    assert backpressure._more(demand) == more  # type: ignore[arg-type]


def test_a_queue_is_read_every_two_seconds_however_often_it_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauser, demand, reads = backpressure.QueuePauser(SimpleNamespace()), Demand(), list[float]()
    clock = SimpleNamespace(now_s=0.0)
    clock.monotonic = lambda: clock.now_s
    monkeypatch.setattr(backpressure, "time", clock)
    monkeypatch.setattr(demand, "may_block_others", lambda: True)
    monkeypatch.setattr(pauser._peeker, "peek", lambda *_: reads.append(clock.now_s))
    parent = SimpleNamespace(task_consumer=SimpleNamespace(channel=None))
    for tenths in range(100, 150):
        clock.now_s = tenths / 10
        pauser._peek(parent, "ai", demand, interval_s=backpressure._PEEK_INTERVAL_S)  # type: ignore[arg-type]
    assert reads == [10.0, 12.0, 14.0]


def test_a_queue_whose_line_has_become_full_is_read_again_a_quarter_of_a_second_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauser, demand, reads = backpressure.QueuePauser(SimpleNamespace()), Demand(), list[float]()
    clock = SimpleNamespace(now_s=0.0)
    clock.monotonic = lambda: clock.now_s
    monkeypatch.setattr(backpressure, "time", clock)
    monkeypatch.setattr(backpressure, "_demands_of", lambda _: {"ai": demand})
    monkeypatch.setattr(demand, "may_block_others", lambda: True)
    monkeypatch.setattr(pauser._peeker, "peek", lambda *_: reads.append(clock.now_s))
    parent = parent_of()
    parent.timer = SimpleNamespace(schedule=Timer())
    demand.waiting = 100
    for hundredths in range(1_000, 1_060, 5):
        clock.now_s = hundredths / 100
        pauser._on_full(parent)
    assert (reads, pauser.paused) == ([], {}), "the consumer does not run"
    pauser._entry = SimpleNamespace()
    for hundredths in range(1_000, 1_060, 5):
        clock.now_s = hundredths / 100
        pauser._on_full(parent)
    assert reads == [10.0, 10.25, 10.5]
    assert set(pauser.paused) == BOTH


def test_deferred_jobs_that_come_within_two_seconds_of_a_reset_run_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauser, ran = backpressure.QueuePauser(SimpleNamespace()), list[float]()
    clock, timer = SimpleNamespace(now_s=100.0), Timer()
    clock.monotonic = lambda: clock.now_s
    monkeypatch.setattr(backpressure, "time", clock)
    parent = SimpleNamespace(timer=SimpleNamespace(schedule=timer))
    pauser.run_held("groq")
    for half_seconds in range(8):
        clock.now_s = 100 + half_seconds / 2
        timer.call_after(600, lambda _: ran.append(clock.now_s - 100), (held("ai.deferred"),))
        timer.call_after(600, lambda _: pytest.fail("of another service"), (held("email"),))
        pauser._run_held_of_reset(parent)
    assert ran == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5], "and once more at the end"
    assert pauser._run_held_until_s == {}


def test_a_queue_that_a_person_has_cancelled_meanwhile_does_not_resume() -> None:
    pauser, parent, demand = backpressure.QueuePauser(SimpleNamespace()), parent_of(), Demand()
    added = list[str]()
    parent.task_consumer.add_queue = lambda queue: added.append(queue.name)
    demand.waiting = 100
    pauser._pause_or_resume(parent, "ai", demand, 0)  # type: ignore[arg-type]
    parent.app.amqp.queues.consume_from = ["ai.deferred"]
    pauser._pause_or_resume(parent, "ai", Demand(), 0)  # type: ignore[arg-type]
    assert (pauser.paused, added) == ({}, ["ai.deferred"])
