"""Flower's Broker page: its counts, with a Redis that gives planned replies."""

from types import SimpleNamespace
from typing import Any, Self
from unittest.mock import AsyncMock

import pytest
from redis.exceptions import RedisError
from tornado.web import HTTPError

from worker.aio.transport.scripts import COUNT_PARKED
from worker.dashboard import broker


class _Pipe:
    def __init__(self, sizes: dict[str, int]) -> None:
        self._sizes, self._keys = sizes, list[str]()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    def eval(self, script: str, count: int, *keys: str) -> None:
        assert (script, count) == (COUNT_PARKED, len(keys))
        self._keys.append(keys[0])

    def zcard(self, key: str) -> None:
        self._keys.append(key)

    async def execute(self) -> list[int]:
        return [self._sizes.get(key, 0) for key in self._keys]


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Flower's broker; `counted` has Flower's counts, `sizes` the messages outside of the lists."""
    broker_page = SimpleNamespace(sizes={}, counted=[])

    async def stock(_: Any, names: Any) -> list[dict[str, Any]]:
        assert names == ["some"]
        return broker_page.counted

    redis = SimpleNamespace(pipeline=lambda **_: _Pipe(broker_page.sizes), aclose=AsyncMock())
    broker_page.redis = redis
    broker_page.broker = SimpleNamespace(
        redis=redis, sep="|", priority_steps=[0, 3, 6], broker_prefix="pre:"
    )
    monkeypatch.setattr(broker, "_stock_queues", stock)
    return broker_page


async def test_messages_outside_the_lists_of_their_queue_are_counted_with_it(page: Any) -> None:
    page.counted = [
        {"name": "ai", "messages": 5},
        {"name": "ai.deferred", "messages": 7},
        {"name": "email", "messages": 9},
    ]
    page.sizes = {
        "pre:ai": 10,  # in the line of a tenant
        "pre:ai.due": 1_000,  # belongs to another program
        "pre:ai.deferred": 20,
        "pre:ai.deferred.due": 100,
        "pre:ai.deferred|3.due": 200,
        "pre:ai.deferred|6.due": 400,
        "pre:email": 3,
    }
    queues = await broker._queues(page.broker, ["some"])
    counts = {queue["name"]: queue["messages"] for queue in queues}
    assert counts == {"ai": 15, "ai.deferred": 727, "email": 12}
    page.redis.aclose.assert_awaited_once_with()


@pytest.mark.parametrize("error", [RedisError("gone"), ConnectionRefusedError("no")])
async def test_a_broker_that_is_down_is_answered_with_503_and_its_connection_closed(
    page: Any, error: Exception
) -> None:
    def broken(**_: Any) -> Any:
        raise error

    page.redis.pipeline = broken
    with pytest.raises(HTTPError) as failed:
        await broker._queues(page.broker, ["some"])
    assert failed.value.status_code == 503
    page.redis.aclose.assert_awaited_once_with()
