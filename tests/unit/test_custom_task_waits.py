"""How long a user's own task may wait for a key, and when it comes back after an outage."""

import time
from types import SimpleNamespace
from unittest.mock import AsyncMock, Mock

import pytest
from celery import Celery

from config.settings import Settings
from worker import attempts
from worker.errors import TransientError
from worker.jobs import history as histories
from worker.jobs import job_run
from worker.jobs.custom_task import wrap
from worker.jobs.job_run import JobRun, current_run
from worker.jobs.outages import NO_OUTAGES


def test_a_task_that_another_one_calls_waits_by_the_time_limit_of_that_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(monotonic=lambda: 100.0, time=time.time)
    monkeypatch.setattr(job_run, "time", clock)
    app, waits_s = Celery("shop", set_as_current=False), list[float]()

    def note() -> None:
        run = current_run.get()
        assert run is not None
        waits_s.append(run.longest_wait_s)

    inner = app.task(note, name="inner", shared=False, soft_time_limit=2)
    inner.run = wrap(inner, lambda: (None, NO_OUTAGES))

    def both() -> None:
        inner()

    outer = app.task(both, name="outer", shared=False, soft_time_limit=8)
    outer.run = wrap(outer, lambda: (None, NO_OUTAGES))
    outer.apply(task_id="one", throw=True)
    assert waits_s == [4]


# A job's calls before an outage met it, and the number of failures on which its wait is based.
@pytest.mark.parametrize(("codes", "failures"), [([], 1), (["a"], 1), (["a", "b"], 2)])
async def test_a_job_that_an_outage_meets_waits_by_its_calls(
    monkeypatch: pytest.MonkeyPatch, codes: list[str], failures: int
) -> None:
    app, back, waits = Celery("shop", set_as_current=False), AsyncMock(), Mock(return_value=5_000)
    monkeypatch.setattr(job_run, "send_back", back)
    monkeypatch.setattr(job_run, "backoff", waits)

    @app.task(shared=False)
    def idle() -> None:
        pass

    monkeypatch.setattr(histories, "time", SimpleNamespace(time=lambda: 1_000.0))
    idle.push_request(id="one", retries=3)
    run = JobRun(idle, settings=Settings(task_time_limit_s=300), deadline_s=5.0)  # just enough
    for code in codes:
        attempts.note("key", code)
    error = TransientError("it is down")
    error.own = False
    await run._retry(error)
    assert waits.call_args.args == (failures,)
    assert back.await_args is not None
    assert back.await_args.args[2] == 5_000
    assert back.await_args.kwargs == {"retries": 3}, "an outage costs no retry"
    error.own = True
    await run._retry(error)
    assert waits.call_args.args == (4,)
    assert back.await_args.kwargs == {"retries": 4}


# The soft time limits of the task and of the message in seconds, and how long a call may wait.
@pytest.mark.parametrize(
    ("task_s", "message_s", "wait_s"), [(None, None, 135), (8, None, 4), (8, 2, 1), (None, 2, 1)]
)
def test_a_call_leaves_half_of_the_soft_time_limit_to_the_task(
    task_s: int | None, message_s: int | None, wait_s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(monotonic=lambda: 100.0, time=time.time)
    monkeypatch.setattr(job_run, "time", clock)
    app = Celery("shop", set_as_current=False)

    @app.task(shared=False, soft_time_limit=task_s)
    def short() -> None:
        pass

    short.push_request(id="one", timelimit=[None, message_s])
    run = JobRun(short, settings=Settings(task_time_limit_s=300))
    assert run.longest_wait_s == wait_s
    clock.monotonic = lambda: 100.0 + wait_s
    assert run.longest_wait_s == wait_s / 2, (
        "the second call may wait for half of the remaining time"
    )
    clock.monotonic = lambda: 100.0 + 3 * wait_s
    assert run.longest_wait_s == 0
