"""Backpressure's reads of the queues: the effect of each, and when the next one is due."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker.request import Request
from kombu.asynchronous.timer import Timer

from tests.unit.unstarted_queues import Demand
from worker.hooks import backpressure
from worker.hooks.backpressure import QueuePauser

CALM_S, BUSY_S = 0.5, 0.1


class Worker:
    """A consumer of two queues, whose timer is moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.demand = Demand()
        self.limits: dict[str, Callable[[], int]] = {}
        self.planned: list[Any] = []
        self.posted: list[Any] = []
        names = ["ai", "ai.deferred"]
        self.parent: Any = SimpleNamespace(
            timer=SimpleNamespace(schedule=Timer(), call_after=self._call_after),
            task_consumer=SimpleNamespace(
                channel=SimpleNamespace(
                    take_at_most=self.limits.__setitem__, take_urgent_only=lambda *_: None
                ),
                queues=[SimpleNamespace(name=name) for name in names],
                cancel_by_queue=lambda _: None,
                add_queue=lambda _: None,
                consume=lambda: None,
            ),
            pool=SimpleNamespace(
                limit=100, calls=SimpleNamespace(post=lambda *call: self.posted.append(call))
            ),
            app=SimpleNamespace(amqp=SimpleNamespace(queues=SimpleNamespace(consume_from=names))),
        )
        monkeypatch.setattr(backpressure, "_demands_of", lambda _: {"ai": self.demand})
        self.pauser = QueuePauser(self.parent)

    def _call_after(self, delay_s: float, look: Any, args: Any) -> Any:
        entry = SimpleNamespace(delay_s=delay_s, cancelled=0, look=lambda: look(*args))
        entry.cancel = lambda: setattr(entry, "cancelled", entry.cancelled + 1)
        self.planned.append(entry)
        return entry

    def look(self) -> float:
        """Read once, as the timer does; return when the next read is due."""
        self.planned[-1].look()
        delay_s: float = self.planned[-1].delay_s
        return delay_s


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    return Worker(monkeypatch)


def test_a_worker_looks_from_its_start_to_its_end(worker: Worker) -> None:
    worker.pauser.start(worker.parent)
    assert [entry.delay_s for entry in worker.planned] == [BUSY_S]
    assert (worker.look(), len(worker.planned)) == (CALM_S, 2)
    worker.pauser.stop(worker.parent)
    worker.pauser.stop(worker.parent)
    assert worker.planned[-1].cancelled == 1
    worker.look()
    assert len(worker.planned) == 2, "this read had begun when the consumer stopped"


def test_after_a_look_that_fails_the_next_one_is_planned(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.pauser.start(worker.parent)
    monkeypatch.setattr(backpressure, "_demands_of", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        worker.look()
    assert [entry.delay_s for entry in worker.planned] == [BUSY_S] * 2


def test_a_look_pauses_a_queue_and_a_new_connection_consumes_it_again(worker: Worker) -> None:
    worker.pauser.start(worker.parent)
    worker.demand.waiting = 100
    assert worker.look() == BUSY_S
    assert set(worker.pauser.paused) == {"ai", "ai.deferred"}
    stats = worker.pauser.info(worker.parent)["backpressure"]
    assert stats == {"paused": ["ai"], "paused_for_bulk": [], "waiting": {"ai": 100}, "held": {}}
    worker.pauser.paused_for_bulk.add("ai")
    worker.pauser.start(worker.parent)
    assert (worker.pauser.paused, worker.pauser.paused_for_bulk) == ({}, set())


def test_a_look_bounds_how_many_messages_are_taken_and_a_full_list_pauses_its_queue(
    worker: Worker,
) -> None:
    worker.pauser.start(worker.parent)
    worker.look()
    worker.demand.waiting = 40
    assert {queue: more() for queue, more in worker.limits.items()} == {"ai": 60, "ai.deferred": 60}
    [notify] = worker.demand.notify
    notify()
    [(act, parent)] = worker.posted
    worker.demand.waiting = 100
    act(parent)
    assert set(worker.pauser.paused) == {"ai", "ai.deferred"}


def test_without_a_pool_that_takes_calls_the_next_look_finds_the_full_list(worker: Worker) -> None:
    del worker.parent.pool.calls
    worker.pauser.start(worker.parent)
    worker.look()
    assert worker.demand.notify == []


# The reason why a worker is busy although no job waits for a key.
@pytest.mark.parametrize(
    ("busy", "next_s"),
    [
        (lambda _: None, CALM_S),
        (lambda pauser: pauser.paused.update({"email": None}), BUSY_S),
        (lambda pauser: pauser.paused_for_bulk.add("email"), BUSY_S),
        (lambda pauser: pauser.run_held("resend"), BUSY_S),
    ],
    ids=["nothing", "a paused queue", "a queue paused for bulk jobs", "a reset"],
)
def test_a_worker_in_which_something_is_about_to_change_looks_more_often(
    worker: Worker, busy: Callable[[QueuePauser], None], next_s: float
) -> None:
    worker.pauser.start(worker.parent)
    busy(worker.pauser)
    assert worker.look() == next_s


def test_jobs_of_a_paused_queue_that_was_not_read_are_let_through(worker: Worker) -> None:
    assert not worker.pauser._lets_through("ai"), "the queue is not paused"
    worker.pauser._let_through_at_s.clear()
    worker.pauser.paused["ai"] = None
    assert worker.pauser._lets_through("ai")


def test_only_deferred_jobs_that_still_wait_are_held(worker: Worker) -> None:
    timer, request = worker.parent.timer.schedule, Request.__new__(Request)
    request._delivery_info = {"routing_key": "ai.deferred"}
    timer.call_after(600, pytest.fail, ("no job",))
    timer.call_after(600, pytest.fail)
    for _ in range(2):
        timer.call_after(600, pytest.fail, (request,))
    assert worker.pauser.info(worker.parent)["backpressure"]["held"] == {"ai": 2}
    timer.queue[-1].entry.cancel()
    assert worker.pauser.info(worker.parent)["backpressure"]["held"] == {"ai": 1}
