"""A job goes back to the queue while the broker fails or a soft time limit strikes."""

import asyncio
import json
import threading
import types
from collections.abc import Coroutine, Generator
from typing import Any

import pytest
import redis
from celery.exceptions import Reject, Retry
from kombu.exceptions import OperationalError

from tests.integration.turns.turns_bench import Bench, history_of
from worker.aio.errors import SoftTimeLimit
from worker.aio.pipelined_publishing import KeptMessages, Publisher, publisher_of
from worker.errors import Deferred, TransientError
from worker.jobs import rescheduling


async def test_a_job_waits_for_a_broker_that_stumbles(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescheduling, "_BROKER_PAUSE_S", 0.01)
    troubles = [
        OperationalError("gone"),
        AttributeError("'NoneType' object has no attribute 'client'"),
    ]
    publish = type(bench.app.tasks["bench.job"]).apply_async

    def stumbling(self: Any, *args: Any, **kwargs: Any) -> Any:
        if troubles:
            raise troubles.pop()
        return publish(self, *args, **kwargs)

    monkeypatch.setattr(type(bench.app.tasks["bench.job"]), "apply_async", stumbling)
    with pytest.raises(Retry):
        await bench.turn(Deferred(1_000, "rate_limit"))
    assert len(bench.sent()) == 1


async def test_a_job_waits_for_a_redis_that_stumbles(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(redis_url, transport="worker.aio.transport:Transport")
    monkeypatch.setattr(rescheduling, "_BROKER_PAUSE_S", 0.01)
    send, tries = Publisher.send, []

    async def stumbling(self: Publisher, kept: KeptMessages) -> None:
        tries.append(kept)
        if len(tries) < 3:
            raise redis.ConnectionError("gone")
        await send(self, kept)

    monkeypatch.setattr(Publisher, "send", stumbling)
    with pytest.raises(Retry):
        await bench.turn(Deferred(60_000, "rate_limit"), queue="ai")
    assert len(tries) == 3
    text = bench.client.hget("ai.deferred.due.texts", "job-1")
    assert history_of(json.loads(text))["reason"] == "rate_limit"  # type: ignore[arg-type]
    publisher = await publisher_of(bench.app)
    assert publisher is not None
    await publisher.pipelining.close()
    bench.close()


async def test_a_job_that_is_cancelled_on_its_way_back_ends_as_cancelled(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_its_way, ended = asyncio.Event(), asyncio.Event()

    async def slowly(*_: Any) -> None:
        try:
            on_its_way.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(rescheduling, "publish", slowly)
    going_back = asyncio.create_task(bench.turn(Deferred(1_000, "rate_limit")))
    await on_its_way.wait()
    going_back.cancel()
    with pytest.raises(
        asyncio.CancelledError
    ):  # not Retry: nothing was published, so the job would be lost
        await going_back
    await ended.wait()


@types.coroutine
def with_a_soft_limit(work: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Let a soft time limit strike while a cancelled coroutine is awaited, as in the pool."""
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
    monkeypatch.setattr(rescheduling, "_BROKER_PAUSE_S", 0.05)

    async def turn() -> Any:
        return await with_a_soft_limit(bench.turn(Deferred(1_000, "rate_limit")))

    going_back = asyncio.create_task(turn())
    await tried.wait()
    await asyncio.sleep(
        0
    )  # the failure may or may not be known; the instant of the limit must not matter
    going_back.cancel()
    await asyncio.sleep(0)
    free.set()
    with pytest.raises(Retry):
        await going_back
    assert len(bench.sent()) == 1


async def test_a_job_goes_back_as_it_came_if_the_broker_stays_down(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescheduling, "_BROKER_RETRIES_S", -1)

    def gone(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise OperationalError("gone")

    monkeypatch.setattr(type(bench.app.tasks["bench.job"]), "apply_async", gone)
    with pytest.raises(Reject) as caught:
        await bench.turn(TransientError("it failed"))
    assert caught.value.requeue is True
    assert bench.sent() == []
