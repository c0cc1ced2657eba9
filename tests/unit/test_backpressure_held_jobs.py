"""Backpressure and the jobs that the timer holds."""

from types import SimpleNamespace

import pytest
from kombu.asynchronous.timer import Timer

from tests.unit.unstarted_queues import held
from worker.hooks import backpressure
from worker.hooks.backpressure import _run_held


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
    assert ran == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5], "it runs once more at the end"
    assert pauser._run_held_until_s == {}
