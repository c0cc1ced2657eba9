"""What the errors of a user's own task mean for its job."""

import asyncio
import contextlib
from typing import Any

import pytest
from celery.exceptions import Ignore

from worker.aio.errors import Revoked, SoftTimeLimit
from worker.errors import Deferred, RequestRejected
from worker.jobs.custom_task import meaning_of

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
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    return one


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


async def test_a_task_group_is_such_a_group() -> None:
    async def call(error: Exception) -> None:
        raise hidden(error)

    found: BaseException = ValueError()
    with contextlib.suppress(BaseExceptionGroup):
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(call(SHORT))
                tasks.create_task(call(LONG))
        except BaseExceptionGroup as exc:
            found = exc
            raise
    assert meaning_of(found) is LONG
