"""The poller's loop: how it ends, what it repeats, and what it does after an error."""

import asyncio
import contextlib
import logging
import threading
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from celery import Celery
from redis.exceptions import ConnectionError as LostError

from config.errors import SettingsError
from config.settings import Settings
from worker.aio import cancelling
from worker.dashboard import poller
from worker.dashboard.errors import RedisUnreachable
from worker.dashboard.poller import Poller


class Cancelled(Poller):
    """A poller that is cancelled at the instant at which a step of its loop ends."""

    loop: "asyncio.Task[None]"

    def __init__(self) -> None:
        self.steps = 0

    async def _reload_keys(self) -> None:
        self.steps += 1
        if self.steps == 1:
            asyncio.get_running_loop().call_soon(self.loop.cancel)

    async def _poll(self, *, fresh_s: float) -> Any:
        pass


async def test_the_poller_stops_though_it_is_cancelled_as_a_step_is_done() -> None:
    poller = Cancelled()
    poller.loop = asyncio.create_task(poller._keep_polling())
    await asyncio.wait([poller.loop], timeout=5)
    assert poller.loop.cancelled()


class SwallowsCancel(Poller):
    """A poller whose poll swallows a cancel, like redis-py before Python 3.12 while it sends."""

    def __init__(self) -> None:
        super().__init__(Settings(), Celery("test", set_as_current=False))
        self._watch.poll = dict  # type: ignore[method-assign]
        self.polls = threading.Event()

    async def _poll(self, *, fresh_s: float) -> Any:  # noqa: ARG002
        self.polls.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            assert task is not None
            if task.cancelling() > 1:
                raise


def test_a_poller_whose_poll_swallows_a_cancel_stops_anyway(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cancelling, "CANCEL_INTERVAL_S", 0.01)
    poller = SwallowsCancel()
    poller.start()
    thread = poller._thread
    assert thread is not None
    assert poller.polls.wait(20)
    poller.stop()
    assert not thread.is_alive()


async def test_a_poller_that_fails_forgets_its_state_and_logs_that_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes: list[Exception | None] = [
        LostError("refused"), LostError("refused"), None, ZeroDivisionError("a prompt"), None
    ]  # fmt: skip
    forgotten: list[int] = []

    async def poll() -> None:
        if (outcome := outcomes.pop(0)) is not None:
            raise outcome

    async def sleep(_: float) -> None:
        if not outcomes:
            raise asyncio.CancelledError

    monkeypatch.setattr(poller.asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await poller._repeat(poll, lambda: forgotten.append(1), "cannot count (%s); later")
    assert len(forgotten) == 3
    assert caplog.messages == [
        "cannot count (refused); later", "cannot count (ZeroDivisionError); later"
    ]  # fmt: skip
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


async def test_keys_are_loaded_again_now_and_then_and_replaced_if_they_differ(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s, keys = 1_000.0, {"groq": ("a",), "resend": ()}
    monkeypatch.setattr(poller.time, "monotonic", lambda: now_s)
    monkeypatch.setattr(poller, "load_keys", lambda name: SimpleNamespace(keys=keys[name]))
    monkeypatch.setattr(poller, "published_keys", AsyncMock(return_value=("of the workers",)))
    unstarted = poller.Poller.__new__(poller.Poller)
    pools = {name: SimpleNamespace(keys=(), names=name, replace_keys=Mock()) for name in keys}
    unstarted._pools, unstarted._redis, unstarted._reloaded_at = pools, "redis", float("-inf")  # type: ignore[assignment]
    await unstarted._reload_keys()
    pools["groq"].replace_keys.assert_called_once_with(("a",))
    pools["resend"].replace_keys.assert_called_once_with(("of the workers",))
    pools["groq"].keys = ("a",)
    keys["groq"] = ("b",)
    await unstarted._reload_keys()
    assert pools["groq"].replace_keys.call_count == 1, "the interval is not over yet"
    unstarted.reload_keys_soon()
    keys["groq"] = ("a",)
    await unstarted._reload_keys()
    assert pools["groq"].replace_keys.call_count == 1, "the keys have not changed"
    unstarted.reload_keys_soon()

    def unreadable(_: str) -> Any:
        raise SettingsError(["half-written"])

    monkeypatch.setattr(poller, "load_keys", unreadable)
    await unstarted._reload_keys()
    assert pools["groq"].replace_keys.call_count == 1


async def test_a_poller_that_does_not_run_raises_an_error() -> None:
    unstarted = poller.Poller.__new__(poller.Poller)
    unstarted._loop = None
    with pytest.raises(RedisUnreachable, match="Flower is not ready"):
        await unstarted.with_pools(AsyncMock())
    unstarted._broker = None
    assert await unstarted.with_broker(AsyncMock()) is None


@pytest.mark.parametrize(("age_s", "polls"), [(0.39, 0), (0.4, 1)])
async def test_requests_of_one_moment_share_a_poll(
    monkeypatch: pytest.MonkeyPatch, *, age_s: float, polls: int
) -> None:
    unstarted = poller.Poller.__new__(poller.Poller)
    unstarted.state = "the state"  # type: ignore[assignment]
    unstarted._polled_at, unstarted._poll_lock = 100.0, asyncio.Lock()
    ended = Mock(side_effect=LostError("it polls"))
    unstarted._pools, unstarted._ended = {}, ended
    monkeypatch.setattr(poller.time, "monotonic", lambda: 100.0 + age_s)
    with contextlib.suppress(LostError):
        assert await unstarted._poll(fresh_s=poller._FRESH_S) == "the state"
    assert ended.call_count == polls
