"""A job goes back to its queue: how long publishing is repeated, and to which queue."""

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
from celery.exceptions import Reject, SoftTimeLimitExceeded

from worker.aio import redis_retry
from worker.jobs import rescheduling
from worker.jobs.rescheduling import _publish_with_retries, awaited_service, publish_patiently


class Publishing:
    """A broker that is down, and a clock that moves only during waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s, self.pauses_s = 1000.0, list[float]()
        self.publish = AsyncMock()
        monkeypatch.setattr(redis_retry._LogLimit, "until_s", {})
        monkeypatch.setattr(rescheduling, "publish", self.publish)
        monkeypatch.setattr("worker.jobs.rescheduling.asyncio.sleep", self._sleep)
        monkeypatch.setattr(rescheduling, "time", SimpleNamespace(monotonic=lambda: self.now_s))

    async def _sleep(self, after_s: float) -> None:
        self.pauses_s.append(after_s)
        self.now_s += after_s


@pytest.fixture
def publishing(monkeypatch: pytest.MonkeyPatch) -> Publishing:
    return Publishing(monkeypatch)


async def test_a_broker_is_tried_for_a_minute_whatever_kombu_raises(
    publishing: Publishing, caplog: pytest.LogCaptureFixture
) -> None:
    error = AttributeError("_pool")
    publishing.publish.side_effect = error
    with pytest.raises(Reject) as rejected:
        await _publish_with_retries("signature", "app")
    assert rejected.value.requeue is True
    assert rejected.value.__cause__ is error
    assert publishing.pauses_s == [1.0] * 61
    assert caplog.messages == [
        "jobs cannot go back to their queue until the broker takes them: _pool"
    ]


async def test_a_broker_that_comes_back_takes_the_message_once(publishing: Publishing) -> None:
    publishing.publish.side_effect = [OSError("gone"), OSError("gone"), None]
    await publish_patiently("signature", "app")
    assert publishing.pauses_s == [1.0, 1.0]
    assert publishing.publish.await_args_list[-1].args == ("signature", "app")


@pytest.mark.parametrize("how", ["a soft time limit", "a cancel"])
async def test_a_message_that_is_on_its_way_is_not_cut_by_a_soft_time_limit(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    gate, begun, ended = asyncio.Event(), asyncio.Event(), list[str]()

    async def publish(*_: Any) -> None:
        begun.set()
        try:
            await gate.wait()
        except asyncio.CancelledError:
            ended.append("cut")
            raise
        ended.append("published")

    error = SoftTimeLimitExceeded() if how == "a soft time limit" else asyncio.CancelledError()

    async def cut(publishing: Any) -> None:
        await begun.wait()
        if how == "a soft time limit":
            gate.set()
        raise error

    monkeypatch.setattr(rescheduling, "_publish_with_retries", publish)
    monkeypatch.setattr("worker.jobs.rescheduling.asyncio.shield", cut)
    if how == "a cancel":
        with pytest.raises(asyncio.CancelledError):
            await publish_patiently("signature", "app")
        gate.clear()
        await asyncio.wait_for(begun.wait(), 10)
        for _ in range(3):  # turns of the loop
            await asyncio.wait([asyncio.ensure_future(asyncio.Event().wait())], timeout=0)
        assert ended == ["cut"]
    else:
        await publish_patiently("signature", "app")
        assert ended == ["published"]


# The queue of a job's message, and the service that it is deferred for there.
@pytest.mark.parametrize(
    ("queue", "service"),
    [("ai", "groq"), ("ai.deferred", "groq"), ("shop", ""), ("shop.deferred", ""), (None, "")],
)
def test_a_job_waits_for_a_service_if_its_queue_has_deferred_jobs(
    queue: str | None, service: str
) -> None:
    info = {"routing_key": queue} if queue else None
    task: Any = SimpleNamespace(request=SimpleNamespace(delivery_info=info), service="groq")
    assert awaited_service(task) == service
