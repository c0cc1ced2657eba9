"""When backpressure reads a queue, and when it admits jobs that it cannot read."""

from types import SimpleNamespace

import pytest
from kombu.asynchronous.timer import Timer

from tests.unit.unstarted_queues import BOTH, Demand, parent_of
from worker.hooks import backpressure


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
