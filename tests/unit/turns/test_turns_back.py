"""A job's way back to the queue while the broker stumbles or a soft time limit strikes."""

import asyncio
import threading
import types
from collections.abc import Coroutine, Generator
from typing import Any

import pytest
from celery.exceptions import Reject, Retry
from kombu.exceptions import OperationalError
from turns_bench import Bench

from worker import turns
from worker.aio.errors import SoftTimeLimit
from worker.errors import Deferred, Fault


async def test_a_job_waits_for_a_broker_that_stumbles(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_BROKER_PAUSE_S", 0.01)
    troubles = [OperationalError("gone"), AttributeError("'NoneType' object has no attribute 'client'")]
    publish = type(bench.app.tasks["bench.job"]).apply_async

    def stumbling(self: Any, *args: Any, **kwargs: Any) -> Any:
        if troubles:
            raise troubles.pop()
        return publish(self, *args, **kwargs)

    monkeypatch.setattr(type(bench.app.tasks["bench.job"]), "apply_async", stumbling)
    with pytest.raises(Retry):
        await bench.turn(Deferred(1_000, "rate_limit"))
    assert len(bench.sent()) == 1


@types.coroutine
def with_a_soft_limit(work: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Let a soft time limit strike at the await of a coroutine that is cancelled, as the pool does."""
    limit = None
    while True:
        try:
            awaited = work.send(None) if limit is None else work.throw(limit)
        except StopIteration as end:
            return end.value
        try:
            yield awaited
        except asyncio.CancelledError:
            limit = SoftTimeLimit(270)
        else:
            limit = None


@pytest.mark.parametrize("broker", ["slow", "away"])
async def test_a_soft_limit_neither_doubles_nor_ends_a_job_that_is_on_its_way_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, broker: str
) -> None:
    kind, tried, free = type(bench.app.tasks["bench.job"]), asyncio.Event(), threading.Event()
    publish = kind.apply_async
    loop = asyncio.get_running_loop()

    def slowly(self: Any, *args: Any, **kwargs: Any) -> Any:
        loop.call_soon_threadsafe(tried.set)
        if not free.is_set() and broker == "away":
            raise OperationalError("gone")
        free.wait(30)
        return publish(self, *args, **kwargs)

    monkeypatch.setattr(kind, "apply_async", slowly)
    monkeypatch.setattr(turns, "_BROKER_PAUSE_S", 0.05)

    async def turn() -> Any:
        return await with_a_soft_limit(bench.turn(Deferred(1_000, "rate_limit")))

    going_back = asyncio.create_task(turn())
    await tried.wait()
    await asyncio.sleep(0)  # a failure may have been heard of, or not: it must not matter where the limit strikes
    going_back.cancel()
    await asyncio.sleep(0)
    free.set()
    with pytest.raises(Retry):
        await going_back
    assert len(bench.sent()) == 1


async def test_a_job_goes_back_as_it_came_where_the_broker_stays_away(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "_BROKER_PATIENCE_S", -1)

    def gone(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise OperationalError("gone")

    monkeypatch.setattr(type(bench.app.tasks["bench.job"]), "apply_async", gone)
    with pytest.raises(Reject) as caught:
        await bench.turn(Fault("it failed"))
    assert caught.value.requeue is True
    assert bench.sent() == []
