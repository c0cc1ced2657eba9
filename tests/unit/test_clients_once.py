"""The results that a step of a task may return, and how often it runs."""

import asyncio
import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from redis.asyncio import Redis

from worker.clients.once import _Record, _record_of, _result_of, once, once_sync
from worker.jobs.job_run import current_run


@pytest.fixture
def record() -> _Record:
    return _Record(Redis(), "kw:step:job:draft", "draft", 60)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({1}, "is not JSON"),
        (float("nan"), "is not JSON"),
        (float("inf"), "is not JSON"),
        (nested(100_000), "is not JSON"),
        ("x" * 999_999, "is larger than 1,000,000 bytes of JSON"),  # with the quotes
    ],
    ids=["a set", "no number", "infinity", "nested too deeply", "too large"],
)
def test_a_result_that_cannot_be_kept_is_refused_with_the_name_of_its_step(
    record: _Record, result: Any, words: str
) -> None:
    with pytest.raises(TypeError, match="the result of step 'draft' ") as caught:
        record.text_of(result)
    assert words in str(caught.value)


@pytest.mark.parametrize("result", [None, (1, "é", {"a": [True]}), "x" * 999_998, nested(100)])
def test_a_result_is_kept_as_json(record: _Record, result: Any) -> None:
    assert json.loads(record.text_of(result)) == json.loads(json.dumps(result))


@pytest.mark.parametrize("text", ["no JSON", "[" * 100_000], ids=["a text", "nested too deeply"])
def test_a_result_that_another_program_wrote_is_an_error_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="the result of step 'draft' in Redis is not JSON"):
        _result_of("draft", text)


class _FakeRedis:
    """A Redis that keeps texts, and how long they live."""

    def __init__(self) -> None:
        self.texts: dict[str, tuple[str, int]] = {}

    async def get(self, name: str) -> str | None:
        return self.texts.get(name, (None, 0))[0]

    async def set(self, name: str, text: str, *, ex: int) -> None:
        self.texts[name] = text, ex


async def test_calls_of_one_step_at_the_same_time_run_it_once_and_one_that_failed_runs_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    redis: Any = _FakeRedis()
    runs: list[int] = []

    async def record_of(step: str) -> _Record:
        return _Record(redis, f"kw:step:job:{step}", step, 60)

    async def make() -> tuple[int, int]:
        runs.append(1)
        await asyncio.sleep(0)
        if len(runs) == 1:
            raise OSError("the first time")
        return 1, 2

    monkeypatch.setattr(sys.modules["worker.clients.once"], "_record_of", record_of)
    with pytest.raises(OSError, match="the first time"):
        await once("draft", make)
    assert redis.texts == {}
    assert await asyncio.gather(*(once("draft", make) for _ in range(3))) == [[1, 2]] * 3
    assert await once("draft", make) == [1, 2]
    assert len(runs) == 2
    assert redis.texts == {"kw:step:job:draft": ("[1, 2]", 60)}


def test_a_step_of_a_plain_function_runs_once_too(monkeypatch: pytest.MonkeyPatch) -> None:
    redis: Any = _FakeRedis()
    runs: list[int] = []
    module = sys.modules["worker.clients.once"]

    async def record_of(step: str) -> _Record | None:
        return None if step == "no job" else _Record(redis, f"kw:step:job:{step}", step, 60)

    def make() -> tuple[int, int]:
        runs.append(1)
        return 1, 2

    monkeypatch.setattr(module, "_record_of", record_of)
    monkeypatch.setattr(module, "wait_for", asyncio.run)
    assert once_sync("draft", make) == [1, 2]
    assert once_sync("draft", make) == [1, 2]
    assert len(runs) == 1
    assert redis.texts == {"kw:step:job:draft": ("[1, 2]", 60)}
    assert [once_sync("no job", make) for _ in range(2)] == [(1, 2)] * 2
    assert len(runs) == 3


async def test_a_step_outside_of_a_job_runs_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_job(_: str) -> None:
        return None

    async def make() -> tuple[int, int]:
        return 1, 2

    monkeypatch.setattr(sys.modules["worker.clients.once"], "_record_of", no_job)
    assert await once("draft", make) == (1, 2), "the result keeps its type"


async def test_the_result_of_a_step_is_kept_for_its_job_until_a_day_after_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = sys.modules["worker.clients.once"]
    settings = SimpleNamespace(namespace="kw", deadline_s=3_600.4)

    async def runtime() -> Any:
        return SimpleNamespace(redis="redis", settings=settings)

    monkeypatch.setattr(module, "runtime", runtime)
    assert await _record_of("draft") is None
    monkeypatch.setattr(module, "current_task", SimpleNamespace(request=SimpleNamespace(id="j1")))
    assert await _record_of("draft") == _Record("redis", "kw:step:j1:draft", "draft", 90_000)  # type: ignore[arg-type]
    ran = current_run.set(SimpleNamespace(job="j0"))  # type: ignore[arg-type]
    try:
        record = await _record_of("draft")
        assert record is not None
        assert record.name == "kw:step:j0:draft", (
            "the record belongs to the job of the calling task"
        )
    finally:
        current_run.reset(ran)
