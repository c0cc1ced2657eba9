"""Jobs of users' own tasks: their calls, their beginning and their end."""

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
from celery import Celery

from config.settings import Settings
from worker.aio import private_loop
from worker.errors import (
    DeadlineExceeded,
    JobEnded,
)
from worker.jobs.custom_task import end_run, wrap
from worker.jobs.history import HEADER
from worker.jobs.job_run import JobRun, current_run
from worker.jobs.outages import NO_OUTAGES
from worker.keypool import LeaseRequest


async def test_the_job_of_a_plain_function_knows_its_worker_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It must make no call after its worker was frozen and another worker has the job."""
    app, begun = Celery("shop", set_as_current=False), list[Any]()

    @app.task(shared=False)
    def add(first: int, second: int) -> int:
        return first + second

    owner: Any = SimpleNamespace(begin=begun.append)
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(private_loop, "_pool_loop", loop)
    wrapped = wrap(add, lambda: (owner, NO_OUTAGES))
    assert await asyncio.to_thread(wrapped, 1, 2) == 3
    assert len(begun) == 1
    assert wrapped(3, 4) == 7, "a coroutine that calls it does not wait for its own loop"
    monkeypatch.setattr(private_loop, "_pool_loop", None)
    assert await asyncio.to_thread(wrapped, 5, 6) == 11
    assert len(begun) == 1


def test_a_task_that_another_one_calls_directly_is_part_of_its_job() -> None:
    app, calls = Celery("shop", set_as_current=False), list[tuple[str, bool]]()

    def note() -> str:
        run = current_run.get()
        assert run is not None
        calls.append((run.of_this_job(LeaseRequest()).by, run.can_go_back))
        return run.email_keys.make("ann", "x")

    inner = app.task(note, name="inner", shared=False)
    inner.run = wrap(inner, lambda: (None, NO_OUTAGES))

    def both() -> list[str]:
        return [note(), inner(), note()]

    outer = app.task(both, name="outer", shared=False)
    outer.run = wrap(outer, lambda: (None, NO_OUTAGES))

    assert outer.apply(task_id="one").get() == ["one-ann-1", "one-ann-2", "one-ann-3"]
    assert calls == [("one", False)] * 3, "a job that runs eagerly has no queue to go back to"
    alone = {inner(), inner()}
    assert len(alone) == 2, "the calls of a program are not runs of one job"
    assert not any(key.startswith("None") for key in alone)
    assert calls[-1] == ("", False)


def test_a_job_that_has_ended_makes_no_more_calls_though_its_code_goes_on() -> None:
    app, runs = Celery("shop", set_as_current=False), list[JobRun]()
    ended: list[str] = []

    def go_on() -> None:
        run = current_run.get()
        assert run is not None
        runs.append(run)
        run.closers.add(lambda: ended.append(run.job))
        end_run("another")
        run.end_if_over()

    inner = app.task(go_on, name="inner", shared=False)
    inner.run = wrap(inner, lambda: (None, NO_OUTAGES))

    def both() -> None:
        go_on()
        inner()
        end_run("one")
        with pytest.raises(JobEnded):
            runs[0].of_this_job(LeaseRequest())
        inner()

    outer = app.task(both, name="outer", shared=False)
    outer.run = wrap(outer, lambda: (None, NO_OUTAGES))
    with pytest.raises(JobEnded):
        outer.apply(task_id="one", throw=True)
    assert ended == ["one"] * 3, "each run has called its closer"
    assert current_run.get() is None
    for run in runs:
        with pytest.raises(JobEnded):
            run.end_if_over()

    def alone() -> None:
        go_on()

    task = app.task(alone, name="alone", shared=False)
    wrap(task, lambda: (None, NO_OUTAGES))()
    with pytest.raises(JobEnded):
        runs[-1].end_if_over()


def test_a_job_whose_deadline_has_passed_ends_before_its_task_begins() -> None:
    app = Celery("shop", set_as_current=False)

    @app.task(shared=False)
    def idle() -> None:
        pass

    wrapped = wrap(idle, lambda: (None, NO_OUTAGES))
    wrapped()
    for headers, ends in (({HEADER: {"since_ms": 1, "in_doubt": True}}, True), ({}, False)):
        idle.push_request(id="one", headers=headers)
        with pytest.raises(DeadlineExceeded) if ends else contextlib.nullcontext():
            wrapped()
        idle.pop_request()


@pytest.mark.parametrize(
    ("headers", "is_stored"), [({"track_started": True}, True), ({"track_started": 1}, False)]
)
def test_the_result_store_says_that_a_job_runs_if_its_message_asks_for_that(
    monkeypatch: pytest.MonkeyPatch, headers: Any, *, is_stored: bool
) -> None:
    app = Celery("shop", set_as_current=False)

    @app.task(shared=False)
    def idle() -> None:
        pass

    store = Mock()
    monkeypatch.setattr(idle.backend, "store_result", store)
    idle.push_request(id="one", headers=headers)
    JobRun(idle, settings=Settings())
    stored = call("one", None, "STARTED", request=idle.request)
    assert store.mock_calls == [stored] * is_stored
