"""Cancelled jobs that wait in the timer of a worker for their instant."""

from types import SimpleNamespace
from typing import Any

from celery.worker.request import Request
from kombu.asynchronous.timer import Timer

from worker.hooks.cancel import _end_waiting


def job(task_id: str) -> Any:
    request = Request.__new__(Request)
    request.id = task_id
    return request


def test_cancelled_jobs_run_at_once_and_leave_the_timer() -> None:
    timer, ran = Timer(), list[Any]()
    for number, task_id in enumerate(("a", "b", "c", "d")):
        timer.call_after(600 - number, ran.append, (job(task_id),))
    over = timer.call_after(60, ran.append, (job("e"),))
    over.cancel()
    _end_waiting(SimpleNamespace(timer=SimpleNamespace(schedule=timer)), frozenset("ace"))
    assert sorted(request.id for request in ran) == ["a", "c"]
    left = [scheduled.entry.args[0].id for scheduled in timer.queue]
    assert left == ["d", "b"], "the others keep their order"
