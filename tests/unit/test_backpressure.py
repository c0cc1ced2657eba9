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


class Demand:
    """Nothing waits, unless a test says so."""

    waiting, rests_s = 0, 0.0

    def count(self, *, bulk: bool) -> int:
        return 0 if bulk else self.waiting

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
