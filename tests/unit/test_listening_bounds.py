"""How long a worker waits for messages from Redis, and how unknown answers are collected."""

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest
from redis.exceptions import ConnectionError as LostError

from worker import listening
from worker.listening import _Resets
from worker.providers.drift import Drift
from worker.providers.unknowns import Kind, Unknown


@pytest.fixture
def runtime() -> Any:
    woken: list[str] = []

    async def wake_deferred(service: str) -> None:
        woken.append(f"{service} deferred")

    line = SimpleNamespace(waiting=SimpleNamespace(wake=lambda: woken.append("line")))
    return SimpleNamespace(
        pools={"groq": SimpleNamespace(names=SimpleNamespace(wake="groq:wake"))},
        rotations={"groq": line},
        wake_deferred=wake_deferred,
        woken=woken,
    )


async def test_after_a_reset_jobs_are_woken_once_more_two_seconds_later(
    runtime: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr(listening.time, "monotonic", lambda: now_s)
    reset = Mock()
    resets = _Resets(runtime, reset)
    assert resets.channels == {"groq:wake": "groq"}
    assert resets.patience_s == 5.0
    await resets.on_message("groq:wake", "given back")
    assert (runtime.woken, reset.mock_calls) == (["line"], [])
    await resets.on_message("groq:wake", "reset")
    assert runtime.woken == ["line", "line", "groq deferred"]
    reset.assert_called_once_with("groq")
    assert resets.patience_s == 1.0
    now_s = 101.999
    await resets.wake_again()
    assert len(runtime.woken) == 3
    now_s = 102.0
    for _ in range(2):
        await resets.wake_again()
    assert runtime.woken[3:] == ["groq deferred"]
    assert resets.patience_s == 5.0


class _Channel:
    """Is silent for a while each time; `subscribed` has the names of each subscription."""

    def __init__(self, silences_s: list[float]) -> None:
        self.now_s, self.subscribed = 0.0, list[Any]()
        self._silences_s = silences_s

    async def subscribe(self, *names: str) -> None:
        self.subscribed.append(names)

    async def get_message(self, *, timeout: float) -> Any:  # noqa: ASYNC109 - redis-py's
        assert timeout == 5.0
        if not self._silences_s:
            raise asyncio.CancelledError
        self.now_s += self._silences_s.pop(0)
        return None if self.now_s != 12.0 else {"type": "subscribe", "channel": "c", "data": 1}


@pytest.mark.parametrize(
    ("silences_s", "questions", "lost"),
    [
        ([4.9], 0, False),
        ([5.0], 1, False),
        ([5.0, 5.0, 5.0], 3, False),
        ([5.0, 5.0, 5.1], 2, True),
        ([5.0, 7.0, 5.0, 5.0], 3, False),  # it answers at the twelfth second
    ],
)
async def test_a_silent_redis_is_probed_and_then_taken_for_lost(
    runtime: Any,
    monkeypatch: pytest.MonkeyPatch,
    silences_s: list[float],
    questions: int,
    *,
    lost: bool,
) -> None:
    channel = _Channel(silences_s)
    monkeypatch.setattr(listening.time, "monotonic", lambda: channel.now_s)
    ends = LostError if lost else asyncio.CancelledError
    with pytest.raises(ends) as ended:
        await listening._listen_on(channel, "cancels", Mock(), _Resets(runtime, Mock()))
    assert channel.subscribed == [("groq:wake", "cancels"), *[("cancels",)] * questions]
    if lost:
        assert str(ended.value) == "Redis has not answered for 15 s"


# --- unknown answers

ONE = Unknown("groq", Kind.STATUS, "418")


async def test_unknown_answers_are_logged_once_and_written_together(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written: list[Any] = []

    async def write(new: Any) -> None:
        written.append(dict(new))

    redis: Any = None
    drift = Drift(redis, namespace="kw")
    monkeypatch.setattr(drift, "_write", write)
    await drift.close()
    drift = Drift(redis, namespace="kw")
    monkeypatch.setattr(drift, "_write", write)
    for _ in range(3):
        drift.notice(ONE)
        for _ in range(3):
            await asyncio.sleep(0)
    assert written == [], "answers are not written one by one"
    await drift.close()
    assert written == [{ONE: 3}]
    assert caplog.messages == [
        (
            "Groq sent an unknown answer (status): 418. `celery -A worker keys drift` lists all "
            "unknown answers"
        )
    ]


async def test_a_lost_redis_is_listened_to_again_and_a_bug_is_raised(
    runtime: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ends, slept, listened = iter([LostError("away"), ZeroDivisionError("a bug")]), list[float](), []

    async def listen_on(*arguments: Any) -> None:
        listened.append(arguments)
        raise next(ends)

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    channel = AsyncMock()
    channel.__aenter__.return_value = channel
    runtime.redis = SimpleNamespace(pubsub=lambda: channel)
    runtime.cancellations = SimpleNamespace(channel="cancels")
    monkeypatch.setattr(listening, "_listen_on", listen_on)
    monkeypatch.setattr(listening.asyncio, "sleep", sleep)
    cancelled = Mock()
    with pytest.raises(ZeroDivisionError):
        await listening.listen(runtime, on_cancelled=cancelled, on_reset=Mock())
    assert slept == [listening._RECONNECT_S]
    assert [each_call[:3] for each_call in listened] == [(channel, "cancels", cancelled)] * 2
    assert caplog.messages == ["cannot listen for resets and cancels now (away); trying again"]
