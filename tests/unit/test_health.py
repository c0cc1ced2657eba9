"""A worker's reports about its key pools and its clock."""

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from config.settings import Settings
from worker.hooks import health
from worker.hooks.health import PoolHealth, clock_skew_s

AWAY = OSError("gone")
VIEW = SimpleNamespace(redis_ms=40_000, summary=lambda: {"total": 3})


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The functions that run on the pool's loop from its start."""
    started = list[Any]()
    monkeypatch.setattr(health.lifespan, "on_startup", started.append)
    settings = SimpleNamespace(status_interval_s=0, heartbeat_path="")
    monkeypatch.setattr(health, "get_settings", lambda: settings)
    return started


async def test_a_worker_keeps_reading_its_pools_and_warns_once_for_each_failure(
    started: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plan, answers, published = iter([AWAY, AWAY, VIEW, AWAY]), list[bool](), list[None]()

    async def view() -> dict[str, Any]:
        answers.append(pool_health._heartbeat.redis_answers)
        planned = next(plan, None)
        if isinstance(planned, Exception):
            raise planned
        if planned is None:
            raise asyncio.CancelledError  # the worker ends
        return {"groq": planned}

    async def publish_keys() -> None:
        published.append(None)

    runtime = SimpleNamespace(view=view, publish_keys=publish_keys)
    monkeypatch.setattr(health.Runtime, "current", lambda: runtime)
    pool_health = PoolHealth(Mock())
    assert pool_health.info(None) == {"keys": {}, "clock_skew_s": 0.0}
    assert started == [pool_health._watch, pool_health._check_keys]
    with pytest.raises(asyncio.CancelledError):
        await pool_health._watch()
    assert answers[1:] == [False, False, True, False]
    assert len(published) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "cannot read the key pools (gone); this worker shows old counts until it can"
    ] * 2
    assert pool_health.info(None)["keys"] == {"groq": {"total": 3}}
    assert pool_health.info(None)["clock_skew_s"] > 1e9


@pytest.mark.parametrize(
    ("enabled", "summaries", "is_sent"),
    [
        (True, {"groq": {"total": 3}}, True),
        (False, {"groq": {"total": 3}}, False),
        (True, {}, False),
    ],
)
@pytest.mark.usefixtures("started")
def test_an_event_is_sent_if_a_summary_is_known_and_events_are_enabled(
    *, enabled: bool, summaries: dict[str, Any], is_sent: bool
) -> None:
    pool_health, parent = PoolHealth(Mock()), Mock()
    parent.consumer.event_dispatcher.enabled, pool_health._summaries = enabled, summaries
    pool_health.start(parent)
    [(interval_s, send, to)] = [each.args for each in parent.timer.call_repeatedly.mock_calls]
    send(*to)
    assert interval_s == pool_health.interval_s
    sent = [
        each.args + tuple(each.kwargs.items())
        for each in parent.consumer.event_dispatcher.send.mock_calls
    ]
    assert sent == ([(health.EVENT, ("services", summaries))] if is_sent else [])
    pool_health.stop(parent)
    pool_health.stop(parent)
    parent.timer.call_repeatedly.return_value.cancel.assert_called_once_with()


# Redis' clock, this machine's clock at the request and at the reply, and the least difference.
@pytest.mark.parametrize(
    ("instants_s", "began_s", "ended_s", "skew_s"),
    [
        ((100.0, 100.5), 99.0, 101.0, 0.0),  # a right clock and a slow reply
        ((100.0, 100.1), 160.0, 160.2, 59.9),  # ahead
        ((100.0, 100.1), 40.0, 40.2, -59.8),  # behind
        ((), 40.0, 40.2, 0.0),  # no service has been read
    ],
)
def test_the_skew_of_a_clock_leaves_out_what_a_slow_answer_explains(
    instants_s: tuple[float, ...], began_s: float, ended_s: float, skew_s: float
) -> None:
    assert clock_skew_s(instants_s, began_s=began_s, ended_s=ended_s) == pytest.approx(skew_s)


async def test_a_worker_reads_its_pools_every_half_minute(
    started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            raise asyncio.CancelledError  # the worker ends

    monkeypatch.setattr(health, "get_settings", Settings)
    monkeypatch.setattr(health.Runtime, "current", SimpleNamespace)
    monkeypatch.setattr(health.asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await PoolHealth(Mock())._watch()
    assert slept == [30, 30]
