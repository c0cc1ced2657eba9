"""What a step of a task may return, and how often it runs."""

import asyncio
import json
import sys
from typing import Any

import pytest
from redis.asyncio import Redis

from worker.clients.once import _Record, once


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
        ("x" * 999_999, "is larger than 1,000,000 bytes of JSON"),  # and its quotes
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


class _Kept:
    """A Redis that keeps texts, and for how long."""

    def __init__(self) -> None:
        self.texts: dict[str, tuple[str, int]] = {}

    async def get(self, name: str) -> str | None:
        return self.texts.get(name, (None, 0))[0]

    async def set(self, name: str, text: str, *, ex: int) -> None:
        self.texts[name] = text, ex


async def test_calls_of_one_step_at_the_same_time_run_it_once_and_one_that_failed_runs_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    redis: Any = _Kept()
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
