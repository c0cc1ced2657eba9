"""The effect of the errors of a user's own task on its job."""

import asyncio
import contextlib
from typing import Any
from unittest.mock import AsyncMock, call

import pytest
from celery import Celery
from celery.exceptions import Ignore, Retry

from worker.aio import private_loop
from worker.aio.errors import Revoked, SoftTimeLimit
from worker.errors import (
    Deferred,
    RequestRejected,
    TransientError,
)
from worker.jobs.custom_task import known_cause, wrap
from worker.jobs.job_run import JobRun
from worker.jobs.outages import NO_OUTAGES

SHORT, LONG = Deferred(100, "cooling"), Deferred(900, "cooling")
REJECTED, IGNORED, LATE, REVOKED = RequestRejected("no"), Ignore(), SoftTimeLimit(), Revoked()


def hidden(cause: BaseException) -> Exception:
    """Return the error that an SDK makes of an error of its transport."""
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
    assert known_cause(error) is meaning


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
    assert known_cause(raised) is LONG


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
    wrapped = wrap(task, lambda: (None, NO_OUTAGES))
    for loop in (True, False):
        if not loop:
            monkeypatch.setattr(private_loop, "_pool_loop", None)
        with pytest.raises(raised) as caught:
            await (wrapped() if is_async else asyncio.to_thread(wrapped))
        assert raised is Retry or caught.value is (REJECTED if raised is RequestRejected else error)
    expected = [call(comes_back or error)] * 2 if raised is Retry else []
    assert backs.await_args_list == expected
