"""Values that workers and Flower publish beside the pool: keys without secrets, and margins."""

import json
import sys
from dataclasses import replace

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from tests.integration.keypool.conftest import make_key
from worker.keypool.margins import Margins
from worker.keypool.names import Names
from worker.keypool.published_keys import publish_keys, published_keys
from worker.keypool.published_margins import publish_margins, published_margins

NAMES = Names("kw", "groq")
KEYS = [make_key(number) for number in (2, 3, 10)]


class Time:
    """The clock of a worker."""

    s = 1_800_000_000.4

    def time(self) -> float:
        return self.s


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(sys.modules[publish_keys.__module__], "time", clock)
    return clock


async def test_keys_are_known_without_their_secrets_in_the_order_of_their_variables(
    redis: Redis, time: Time
) -> None:
    assert await published_keys(redis, NAMES) == ()
    await publish_keys(redis, NAMES, [])
    assert await redis.exists(NAMES.keys) == 0
    named = replace(KEYS[0], account="acme", sender="a@example.org")
    await publish_keys(redis, NAMES, [KEYS[2], named])
    await publish_keys(redis, NAMES, [KEYS[1]])
    bare = [replace(key, secret=SecretStr("")) for key in (named, KEYS[1], KEYS[2])]
    assert await published_keys(redis, NAMES) == tuple(bare)
    assert 86_000 < await redis.ttl(NAMES.keys) <= 86_400
    text = str(await redis.hget(NAMES.keys, named.id))
    assert json.loads(text) == {
        "label": named.label,
        "variable": "GROQ_API_KEY_2",
        "account": "acme",
        "sender": "a@example.org",
        "seen_s": 1_800_000_000,
    }


async def test_a_key_that_no_worker_has_any_more_is_forgotten_after_ten_minutes(
    redis: Redis, time: Time
) -> None:
    for key, seen_s in zip(KEYS, (0, 1, 601), strict=True):
        time.s = 1_800_000_000.0 + seen_s
        await publish_keys(redis, NAMES, [key])
    assert [key.id for key in await published_keys(redis, NAMES)] == [KEYS[1].id, KEYS[2].id]
    assert set(await redis.hkeys(NAMES.keys)) == {KEYS[1].id, KEYS[2].id}


async def test_margins_are_kept_for_a_week(redis: Redis) -> None:
    assert await published_margins(redis, NAMES) == Margins()
    margins = Margins(((1.5, 1), (2.25, 20), (0.5, 300)))
    await publish_margins(redis, NAMES, margins)
    assert await published_margins(redis, NAMES) == margins
    assert 604_000 < await redis.ttl(NAMES.margins) <= 604_800
