"""Small parts of backpressure.

The whole of it is in `tests/workers/keywheel/test_worker_backpressure.py`.
"""

from types import SimpleNamespace
from typing import Any

from celery.worker.request import Request
from kombu.asynchronous.timer import Timer

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
