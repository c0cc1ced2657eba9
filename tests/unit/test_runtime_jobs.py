"""How the parts of a process handle waiting jobs, here and in the broker."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock, call

import pytest
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import RedisError

from config.celery import DELAYED_QUEUES
from worker import runtime as runtime_module
from worker.aio import redis_retry
from worker.runtime import Runtime


@pytest.fixture
def runtime() -> Any:
    made: Any = Runtime.__new__(Runtime)
    object.__setattr__(made, "broker", object())
    return made


@pytest.fixture
def loud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_retry._LogLimit, "until_s", {})


@pytest.mark.usefixtures("loud")
async def test_deferred_jobs_are_woken_and_found_in_each_delayed_queue(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, runtime: Any
) -> None:
    woken, find = AsyncMock(), AsyncMock(side_effect=lambda _, queue, __: [f"job of {queue}"])
    monkeypatch.setattr(runtime_module, "wake_jobs", woken)
    monkeypatch.setattr(runtime_module, "wake_deferred", woken)
    monkeypatch.setattr(runtime_module, "find_stamped", find)
    await runtime.wake_jobs(["a"])
    each = [call(runtime.broker, queue, ["a"]) for queue in DELAYED_QUEUES]
    assert woken.await_args_list == each
    await runtime.wake_jobs([])
    assert woken.await_args_list == each
    await runtime.wake_deferred("resend")
    assert woken.await_args == call(runtime.broker, "email.deferred")
    assert await runtime.waiting_with(["x"]) == [f"job of {queue}" for queue in DELAYED_QUEUES]
    assert find.await_args_list == [call(runtime.broker, name, ["x"]) for name in DELAYED_QUEUES]
    for failing in (woken, find):
        failing.side_effect = LostError("gone")
    await runtime.wake_jobs(["a"])
    assert await runtime.waiting_with(["x"]) == []
    assert caplog.messages == [
        "cannot wake deferred jobs now (gone); they run at their instants",
        "cannot search deferred jobs for a stamp (gone); they end at their instants",
    ]
    object.__setattr__(runtime, "broker", None)
    woken.reset_mock()
    await runtime.wake_jobs(["a"])
    await runtime.wake_deferred("groq")
    assert await runtime.waiting_with(["x"]) == []
    assert await runtime.count_waiting("groq") is None
    woken.assert_not_awaited()
    woken.side_effect = RedisError
    with pytest.raises(ZeroDivisionError):
        await runtime_module._or_warn(AsyncMock(side_effect=ZeroDivisionError)())


async def test_the_jobs_of_a_service_that_wait_are_those_in_the_broker_and_those_held_here(
    monkeypatch: pytest.MonkeyPatch, runtime: Any
) -> None:
    counted: list[Any] = []

    async def count(broker: Any, lists: tuple[str, ...]) -> int:
        counted.append((broker, lists))
        return 100

    monkeypatch.setattr(runtime_module, "count_waiting", count)
    demand = SimpleNamespace(count=lambda *, bulk: 3 if bulk else 20)
    object.__setattr__(runtime, "demands", {"ai": demand})
    assert await runtime.count_waiting("groq") == 123
    [(broker, lists)] = counted
    assert broker is runtime.broker
    assert [name for name in lists if "\x06" not in name] == ["ai", "ai.deferred"]
    assert len(lists) == 8


def test_a_cancelled_job_that_waits_for_a_key_or_its_batch_ends(
    monkeypatch: pytest.MonkeyPatch, runtime: Any
) -> None:
    class Emails:
        cancel = Mock()

    monkeypatch.setattr(runtime_module, "EmailSender", Emails)
    emails, rotation = Emails(), Mock()
    object.__setattr__(runtime, "rotations", {"groq": rotation})
    object.__setattr__(runtime, "senders", {"groq": rotation, "resend": emails})
    runtime.end_waiting({"a"})
    assert rotation.mock_calls == [call.waiting.cancel({"a"})]
    emails.cancel.assert_called_once_with({"a"})


async def test_a_process_that_ends_sends_all_waiting_jobs_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loops, rotation = [Mock(), Mock()], Mock()
    runtime: Any = SimpleNamespace(rotations={"groq": rotation})
    monkeypatch.setattr(runtime_module, "_RUNTIMES", dict.fromkeys(loops, runtime))
    runtime_module.stop_waiting()
    for loop in loops:
        loop.call_soon_threadsafe.assert_called_once_with(rotation.waiting.close)
