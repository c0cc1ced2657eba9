"""How an outage is noted in the broker; trouble of the broker itself costs no job anything.

With a broker: `tests/integration/test_outages.py`.
"""

import logging
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock, Mock, call

import pytest
from redis.exceptions import ConnectionError as LostError

from worker.jobs import outages
from worker.jobs.outages import Outages

NOW_S = 1_000.0


class Broker:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = NOW_S
        self.note, self.end = AsyncMock(), AsyncMock(return_value=False)
        monkeypatch.setattr(outages, "note_outage", self.note)
        monkeypatch.setattr(outages, "end_outage", self.end)
        monkeypatch.setattr(outages, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        self.random = Mock(side_effect=lambda _, most: most)
        monkeypatch.setattr(outages.random, "randint", self.random)
        self.outages = Outages(self)  # type: ignore[arg-type]

    async def wait(self, least_ms: int = 100, code: str = "server_error", **more: Any) -> int:
        return await self.outages.countdown_ms("groq", least_ms, code, **more)

    async def passed(self, model: str = "") -> None:
        self.outages.passed("groq", model)
        for task in tuple(self.outages._waking):
            await task


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    return Broker(monkeypatch)


async def test_the_more_jobs_wait_the_later_each_comes_back(broker: Broker) -> None:
    assert [await broker.wait() for _ in range(4)] == [100, 1_000, 2_000, 3_000]
    assert broker.random.call_args == call(100, 3_000)
    broker.now_s += 2.0
    assert await broker.wait() == 1_000, "jobs that are due by now no longer count"
    assert await broker.wait(5_000) == 5_000
    assert await broker.wait(code="rpm") == 100, "the end of such a rest is known"
    for outages_, service in ((broker.outages, ""), (Outages(None), "groq")):
        waits = [await outages_.countdown_ms(service, 100, "server_error") for _ in range(4)]
        assert waits == [100] * 4, "the end of an outage could not wake them"


async def test_an_outage_holds_no_job_for_longer_than_an_hour(broker: Broker) -> None:
    broker.outages._due_s["groq", ""] = [NOW_S + 9_999.0] * 5_000
    assert await broker.wait() == 3_600_000
    assert await broker.wait(3_700_000) == 3_700_000


async def test_an_outage_is_noted_again_if_the_broker_was_down(broker: Broker) -> None:
    await broker.wait(models=["a", "b"])
    broker.note.assert_not_awaited()  # a few jobs come back soon enough
    broker.note.side_effect = LostError
    await broker.wait(models=["a"])
    broker.note.side_effect = None
    for models in (["a"], ["a", "b"]):
        await broker.wait(models=models)
    queue = "ai.deferred"
    noted = [call(broker, queue, model) for model in "aab"]
    assert broker.note.await_args_list == noted
    broker.now_s += 59.9
    broker.outages._due_s["groq", "a"] = [NOW_S + 9_999.0] * 5
    await broker.wait(models=["a"])
    assert broker.note.await_args_list == noted
    broker.now_s += 0.1
    broker.note.side_effect = ValueError("a bug")
    with pytest.raises(ValueError, match="a bug"):
        await broker.wait(models=["a"])


async def test_an_outage_that_is_forgotten_is_noted_when_it_comes_again(broker: Broker) -> None:
    for _ in range(2):
        await broker.wait(models=["a"])
    broker.now_s += 10.0
    broker.outages._many = 1
    await broker.wait(models=["b"])
    assert [name for _, name in broker.outages._due_s] == ["b"]
    for _ in range(2):
        await broker.wait(models=["a"])
    assert [note.args[2] for note in broker.note.await_args_list] == ["a", "a"]


async def test_a_call_that_passes_looks_for_an_outage_every_ten_seconds(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    for after_s, looks in ((0.0, 1), (9.9, 1), (0.1, 2)):
        broker.now_s += after_s
        await broker.passed()
        assert broker.end.await_args_list == [call(broker, "ai.deferred", "")] * looks
    broker.now_s += 10.0
    broker.end.side_effect = LostError("canary")
    with caplog.at_level(logging.DEBUG, "worker"):
        await broker.passed()
    assert caplog.messages == ["jobs cannot be woken after an outage (ConnectionError)"]
    broker.end.side_effect = None
    await broker.passed()
    assert broker.end.await_count == 4, "it looks at once, because the broker was down"
    broker.outages.passed("", "")
    Outages(None).passed("groq", "")
    assert not broker.outages._waking


async def test_after_an_outage_its_jobs_are_forgotten_and_the_next_one_ends_after_a_pause(
    broker: Broker,
) -> None:
    for _ in range(4):
        await broker.wait()
    broker.end.return_value = True
    await broker.passed()
    assert await broker.wait() == 100
    await broker.wait()  # the next outage is noted
    await broker.passed()
    assert broker.end.await_count == 1
    broker.now_s += 10.0
    await broker.passed()
    assert broker.end.await_count == 2
    await broker.passed("another")
    assert broker.end.await_args == call(broker, "ai.deferred", "another")
