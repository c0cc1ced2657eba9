"""What the errors of a user's own task mean for its job."""

import asyncio
import contextlib
import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock, call

import pytest
from celery import Celery
from celery.exceptions import Ignore, Retry

from config.settings import Settings
from worker import attempts
from worker.aio import private_loop
from worker.aio.errors import Revoked, SoftTimeLimit
from worker.errors import (
    DeadlineExceeded,
    Deferred,
    JobEnded,
    RequestRejected,
    TransientError,
)
from worker.jobs import history as histories
from worker.jobs import job_run
from worker.jobs.custom_task import end_run, meaning_of, wrap
from worker.jobs.email_keys import EmailKeys
from worker.jobs.history import HEADER
from worker.jobs.job_run import JobRun, current_run
from worker.jobs.outages import NOBODY_COUNTS
from worker.keypool import LeaseRequest

SHORT, LONG = Deferred(100, "cooling"), Deferred(900, "cooling")
REJECTED, IGNORED, LATE, REVOKED = RequestRejected("no"), Ignore(), SoftTimeLimit(), Revoked()


def hidden(cause: BaseException) -> Exception:
    """What an SDK makes of an error of its transport."""
    try:
        try:
            raise cause  # noqa: TRY301 - as an SDK catches it
        except BaseException as exc:
            raise ConnectionError("connection error") from exc
    except ConnectionError as exc:
        return exc


def cyclic() -> Exception:
    first, second = ValueError("one"), ValueError("other")
    first.__cause__, second.__cause__ = second, first
    return first


def group(*errors: BaseException) -> BaseException:
    return BaseExceptionGroup("unhandled errors in a TaskGroup", errors)


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (ValueError("a bug"), None),
        (cyclic(), None),
        (hidden(SHORT), SHORT),
        (hidden(IGNORED), IGNORED),
        (hidden(LATE), LATE),
        (group(hidden(SHORT)), SHORT),
        (group(hidden(SHORT), group(hidden(LONG))), LONG),
        (group(hidden(SHORT), ValueError("a bug")), None),
        (group(ValueError("a bug"), hidden(REJECTED), hidden(SHORT)), REJECTED),
        (group(ValueError("a bug"), REVOKED), REVOKED),
        (hidden(group(SHORT)), SHORT),
    ],
)
def test_the_meaning_of_an_error_is_found_behind_sdks_and_in_groups(
    error: BaseException, meaning: Any
) -> None:
    assert meaning_of(error) is meaning


async def test_the_error_of_a_task_group_means_its_longest_deferral() -> None:
    async def call(error: Exception) -> None:
        raise hidden(error)

    raised: BaseException = ValueError()
    with contextlib.suppress(BaseExceptionGroup):
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(call(SHORT))
                tasks.create_task(call(LONG))
        except BaseExceptionGroup as exc:
            raised = exc
            raise
    assert meaning_of(raised) is LONG


async def test_the_job_of_a_plain_function_knows_its_worker_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that it makes no call after its worker was frozen and another one has the job."""
    app, begun = Celery("shop", set_as_current=False), list[Any]()

    @app.task(shared=False)
    def add(first: int, second: int) -> int:
        return first + second

    owner: Any = SimpleNamespace(begin=begun.append)
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(private_loop, "_pool_loop", loop)
    wrapped = wrap(add, lambda: (owner, NOBODY_COUNTS))
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
        calls.append((run.of_this_job(LeaseRequest()).by, run.goes_back))
        return run.email_keys.make("ann", "x")

    inner = app.task(note, name="inner", shared=False)
    inner.run = wrap(inner, lambda: (None, NOBODY_COUNTS))

    def both() -> list[str]:
        return [note(), inner(), note()]

    outer = app.task(both, name="outer", shared=False)
    outer.run = wrap(outer, lambda: (None, NOBODY_COUNTS))

    assert outer.apply(task_id="one").get() == ["one-ann-1", "one-ann-2", "one-ann-3"]
    assert calls == [("one", False)] * 3, "a job that runs eagerly has no queue to go back to"
    alone = {inner(), inner()}
    assert len(alone) == 2, "a program's calls are no runs of one job"
    assert not any(key.startswith("None") for key in alone)
    assert calls[-1] == ("", False)


def test_a_job_that_has_ended_makes_no_more_calls_though_its_code_goes_on() -> None:
    app, runs = Celery("shop", set_as_current=False), list[JobRun]()
    ended: list[str] = []

    def go_on() -> None:
        run = current_run.get()
        assert run is not None
        runs.append(run)
        run.at_end.add(lambda: ended.append(run.job))
        end_run("another")
        run.end_if_over()

    inner = app.task(go_on, name="inner", shared=False)
    inner.run = wrap(inner, lambda: (None, NOBODY_COUNTS))

    def both() -> None:
        go_on()
        inner()
        end_run("one")
        with pytest.raises(JobEnded):
            runs[0].of_this_job(LeaseRequest())
        inner()

    outer = app.task(both, name="outer", shared=False)
    outer.run = wrap(outer, lambda: (None, NOBODY_COUNTS))
    with pytest.raises(JobEnded):
        outer.apply(task_id="one", throw=True)
    assert ended == ["one"] * 3, "what each has left open is ended"
    assert current_run.get() is None
    for run in runs:
        with pytest.raises(JobEnded):
            run.end_if_over()

    def alone() -> None:
        go_on()

    task = app.task(alone, name="alone", shared=False)
    wrap(task, lambda: (None, NOBODY_COUNTS))()
    with pytest.raises(JobEnded):
        runs[-1].end_if_over()


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize(
    ("error", "comes_back", "raised"),
    [
        (hidden(SHORT), SHORT, Retry),
        (TransientError("why"), None, Retry),
        (hidden(REJECTED), None, RequestRejected),
        (ValueError("a bug"), None, ValueError),
    ],
)
async def test_a_task_comes_back_by_what_its_error_means(
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    comes_back: Any,
    raised: type[Exception],
    *,
    is_async: bool,
) -> None:
    app, backs = Celery("shop", set_as_current=False), AsyncMock(side_effect=Retry)
    monkeypatch.setattr(JobRun, "reschedule", backs)
    monkeypatch.setattr(private_loop, "_pool_loop", asyncio.get_running_loop())

    async def awaited() -> None:
        raise error

    def called() -> None:
        raise error

    task = app.task(awaited if is_async else called, name="task", shared=False)
    wrapped = wrap(task, lambda: (None, NOBODY_COUNTS))
    for loop in (True, False):
        if not loop:
            monkeypatch.setattr(private_loop, "_pool_loop", None)
        with pytest.raises(raised) as caught:
            await (wrapped() if is_async else asyncio.to_thread(wrapped))
        assert raised is Retry or caught.value is (REJECTED if raised is RequestRejected else error)
    expected = [call(comes_back or error)] * 2 if raised is Retry else []
    assert backs.await_args_list == expected


def test_a_job_whose_deadline_has_passed_ends_before_its_task_begins() -> None:
    app = Celery("shop", set_as_current=False)

    @app.task(shared=False)
    def idle() -> None:
        pass

    wrapped = wrap(idle, lambda: (None, NOBODY_COUNTS))
    wrapped()
    for headers, ends in (({HEADER: {"since_ms": 1, "in_doubt": True}}, True), ({}, False)):
        idle.push_request(id="one", headers=headers)
        with pytest.raises(DeadlineExceeded) if ends else contextlib.nullcontext():
            wrapped()
        idle.pop_request()


@pytest.mark.parametrize(
    ("headers", "is_stored"), [({"track_started": True}, True), ({"track_started": 1}, False)]
)
def test_the_result_store_says_that_a_job_runs_where_its_message_asks_for_that(
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
    inner.run = wrap(inner, lambda: (None, NOBODY_COUNTS))

    def both() -> None:
        inner()

    outer = app.task(both, name="outer", shared=False, soft_time_limit=8)
    outer.run = wrap(outer, lambda: (None, NOBODY_COUNTS))
    outer.apply(task_id="one", throw=True)
    assert waits_s == [4]


# How an outage met a job: what it had called before, and of how many failures its wait is.
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


def test_an_email_that_may_have_been_accepted_keeps_its_key() -> None:
    keys = EmailKeys("job")
    assert [keys.make("ann", "x"), keys.make("bob", "x")] == ["job-ann-1", "job-bob-1"]
    assert keys.make("ann", "y") == "job-ann-2"
    keys.note_failed("ann", "x", "job-ann-1")
    assert keys.make("ann", "y") == "job-ann-3"
    assert keys.make("ann", "x") == "job-ann-1"
    assert keys.make("ann", "x") == "job-ann-4", "once"


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
    assert run.longest_wait_s == wait_s / 2, "the second call has half of what is left"
    clock.monotonic = lambda: 100.0 + 3 * wait_s
    assert run.longest_wait_s == 0
