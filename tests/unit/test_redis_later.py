"""Commands that are sent to Redis later, in the background."""

import asyncio
import contextlib
import logging
from dataclasses import replace

import pytest
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import NoPermissionError

from worker.aio import cancelling, lifespan
from worker.redis import later
from worker.redis.later import send_later


@pytest.fixture(autouse=True)
def no_cleanup_of_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifespan, "_shutdowns", [])


async def test_commands_that_redis_did_not_take_are_sent_in_order_until_it_answers() -> None:
    stored: list[int] = []
    ended, troubles = asyncio.Event(), [LostError("lost"), LostError("lost")]

    async def store(number: int) -> None:
        if troubles:
            raise troubles.pop()
        stored.append(number)
        if number == 2:
            ended.set()

    for number in range(3):
        assert send_later(lambda number=number: store(number), LostError("lost"))  # type: ignore[misc]
    await ended.wait()
    assert stored == [0, 1, 2]


async def test_a_command_that_redis_denies_is_not_sent_again() -> None:
    async def store() -> None:
        raise AssertionError

    assert not send_later(store, NoPermissionError("no"))


@pytest.mark.parametrize("bug", [ZeroDivisionError("a bug"), KeyError("a bug")])
async def test_a_bug_in_one_command_keeps_no_other_from_being_sent(
    caplog: pytest.LogCaptureFixture, bug: Exception
) -> None:
    stored = asyncio.Event()

    async def broken() -> None:
        raise bug

    async def store() -> None:
        stored.set()

    with caplog.at_level(logging.WARNING):
        send_later(broken, LostError("lost"))
        send_later(store, LostError("lost"))
        await stored.wait()
    assert caplog.messages == [
        f"cannot store the end of a call ({bug}); its records in Redis expire on their own"
    ]


async def test_commands_are_given_up_with_their_time_and_with_the_pool(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = asyncio.Event()

    async def refused() -> None:
        tried.set()
        raise LostError("lost")

    send_later(refused, LostError("lost"))
    await tried.wait()
    [close] = lifespan._shutdowns
    await close()
    monkeypatch.setattr(later, "JOB", replace(later.JOB, within_s=0.0))
    tried.clear()
    send_later(refused, LostError("lost"))
    stored = asyncio.Event()

    async def store() -> None:
        stored.set()

    monkeypatch.setattr(later, "JOB", replace(later.JOB, within_s=60.0))
    send_later(store, LostError("lost"))
    await stored.wait()
    assert not tried.is_set(), "the time of the command was over before it could be sent"


async def test_the_end_of_the_loop_ends_a_command_that_swallows_a_cancel(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun = asyncio.Event()

    async def swallow_one_cancel() -> None:
        begun.set()
        with contextlib.suppress(asyncio.CancelledError):  # like redis-py before Python 3.12
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    monkeypatch.setattr(cancelling, "CANCEL_INTERVAL_S", 0.01)
    assert send_later(swallow_one_cancel, LostError("Redis is away"))
    await begun.wait()
    [close] = lifespan._shutdowns
    async with asyncio.timeout(10):
        await close()
