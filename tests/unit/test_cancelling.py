"""Cancelled jobs: those in the timer of a worker, those with stamps, those that perhaps run."""

from types import SimpleNamespace
from typing import Any

import pytest
from celery.worker.request import Request
from kombu.asynchronous.timer import Timer
from kombu.exceptions import ChannelError, ConnectionError, OperationalError  # noqa: A004 - of AMQP
from redis.exceptions import RedisError

from worker import cancellations
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


@pytest.mark.parametrize(
    "error",
    [
        OperationalError(),
        ChannelError(),
        ConnectionError(),
        RedisError(),
        OSError(),
        TimeoutError(),
    ],
)
async def test_a_job_perhaps_runs_where_the_workers_cannot_be_asked(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise error

    monkeypatch.setattr(cancellations, "running_among", broken)
    found = await cancellations._running_outcomes(None, ["a", "b"])
    assert found == {"a": "perhaps_running", "b": "perhaps_running"}


@pytest.mark.parametrize(
    ("job_id", "stamps", "is_kept"),
    [
        ("a", {"group": "g"}, True),
        ("a", {}, False),
        ("a", None, False),
        ("a", ["group"], False),  # written by a stranger
        (None, {"group": "g"}, False),  # called directly
    ],
)
def test_the_stamps_of_a_job_are_known_while_it_runs(
    job_id: str | None, stamps: Any, *, is_kept: bool
) -> None:
    with cancellations.stamped(SimpleNamespace(id=job_id, stamps=stamps)):
        assert list(cancellations._stamps) == ([job_id] if is_kept else [])
    assert cancellations._stamps == {}
