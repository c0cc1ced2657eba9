"""What a step of a task may return."""

import json
from typing import Any

import pytest
from redis.asyncio import Redis

from worker.clients.once import _Record


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
