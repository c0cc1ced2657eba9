"""When backpressure pauses a queue and when it resumes it.

`tests/workers/keywheel/test_worker_backpressure.py` tests it with a worker.
"""

from types import SimpleNamespace
from typing import Any

import pytest
from kombu.asynchronous.timer import Timer

from tests.unit.unstarted_queues import BOTH, Demand, ignore, parent_of
from worker.hooks import backpressure


@pytest.mark.parametrize(
    ("changes", "limits", "looks"),
    [
        ({}, True, 2),  # two wake-ups of the consumer a second; with all other jobs it was 14
        ({"waiting": 1}, True, 10),
        ({"rests_s": 60.0}, True, 10),
        ({}, False, 10),  # a transport without limits holds deferred jobs
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


def state_of(pauser: backpressure.QueuePauser, parent: Any) -> set[str]:
    for_bulk = parent.task_consumer.channel.for_urgent_only
    assert for_bulk == ({"ai", "ai.deferred"} if pauser.paused_for_bulk else set())
    return {*pauser.paused, *(f"{queue} for bulk" for queue in pauser.paused_for_bulk)}


@pytest.mark.parametrize(
    ("demand", "held", "paused_then", "paused_after"),
    [
        ({}, 0, set(), set()),
        # jobs that wait here for a key; there is room for 100
        ({"waiting": 99}, 0, set(), BOTH),
        ({"waiting": 100}, 0, BOTH, BOTH),
        ({"waiting": 51}, 0, set(), BOTH),
        ({"waiting": 50}, 0, set(), set()),
        # bulk jobs keep out only other bulk jobs
        ({"bulk": 99}, 0, set(), {"ai for bulk"}),
        ({"bulk": 100}, 0, {"ai for bulk"}, {"ai for bulk"}),
        ({"bulk": 51}, 0, set(), {"ai for bulk"}),
        ({"bulk": 50}, 0, set(), set()),
        # jobs in the timer keep no deferred job out
        ({}, 99, set(), {"ai"}),
        ({}, 100, {"ai"}, {"ai"}),
        ({}, 51, set(), {"ai"}),
        ({}, 50, set(), set()),
        # no key may be called for a while
        ({"rests_s": 1.0}, 0, {"ai"}, {"ai"}),
        ({"rests_s": 1.0, "waiting": 51}, 0, {"ai"}, BOTH),
    ],
)
def test_a_queue_is_paused_by_waiting_jobs_and_resumed_at_half_as_many(
    demand: dict[str, Any], held: int, paused_then: set[str], paused_after: set[str]
) -> None:
    """Tested from a state in which no queue is paused, and from one in which all are."""
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


def test_a_pause_is_logged_once_a_minute_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pauser, parent, demand, now_s = (
        backpressure.QueuePauser(SimpleNamespace()),
        parent_of(),
        Demand(),
        1_000.0,
    )
    monkeypatch.setattr(backpressure.time, "monotonic", lambda: now_s)

    def logged(*, bulk: int, waiting: int, rests_s: float = 0.0, held: int = 0) -> list[str]:
        caplog.clear()
        demand.bulk, demand.waiting, demand.rests_s = bulk, waiting, rests_s
        pauser._legible["ai"] = True
        pauser._pause_or_resume(parent, "ai", demand, held)  # type: ignore[arg-type]
        return [record.getMessage() for record in caplog.records if record.levelname == "INFO"]

    caplog.set_level("DEBUG")
    for after_s, is_logged in ((0.0, True), (60.0, False), (0.1, True)):
        now_s += after_s
        paused = logged(bulk=0, waiting=200, held=20)
        assert paused == ["⏸️ Queue ai paused: 220 jobs wait here for a key"] * is_logged
        assert "Queue ai.deferred paused: 200 jobs wait here for a key" in caplog.text
        assert logged(bulk=0, waiting=0) == ["▶️ Queue ai resumed"] * is_logged
        assert "Queue ai.deferred resumed" in caplog.text
    now_s += 61
    assert logged(bulk=0, waiting=0, rests_s=9.0) == [
        "⏸️ Queue ai paused: no key may be called for a while"
    ]
    assert logged(bulk=200, waiting=0, rests_s=9.0) == [
        "⏸️ Queue ai paused for bulk jobs: 200 of them wait here for a key"
    ]
    assert logged(bulk=0, waiting=0, rests_s=9.0) == ["▶️ Queue ai resumed for bulk jobs"]


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


@pytest.mark.parametrize(
    ("waiting", "blocks", "rests_s", "more"),
    [
        (0, False, 0.0, 20),
        (5, False, 0.0, 15),
        (20, False, 0.0, 0),
        (0, True, 0.0, 64),  # the jobs before these are only sent back
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


def test_a_queue_that_a_person_has_cancelled_meanwhile_does_not_resume() -> None:
    pauser, parent, demand = backpressure.QueuePauser(SimpleNamespace()), parent_of(), Demand()
    added = list[str]()
    parent.task_consumer.add_queue = lambda queue: added.append(queue.name)
    demand.waiting = 100
    pauser._pause_or_resume(parent, "ai", demand, 0)  # type: ignore[arg-type]
    parent.app.amqp.queues.consume_from = ["ai.deferred"]
    pauser._pause_or_resume(parent, "ai", Demand(), 0)  # type: ignore[arg-type]
    assert (pauser.paused, added) == ({}, ["ai.deferred"])
