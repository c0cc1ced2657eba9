"""What the jobs of a process share is closed with it."""

from typing import Any

import pytest
from redis.asyncio import Redis

from config.keys import Discovery
from config.services import SERVICES
from config.settings import Settings
from worker.providers.drift import Drift
from worker.providers.groq.client import Groq
from worker.providers.resend.client import Resend
from worker.runtime import open_runtime
from worker.streams import StreamWriter
from worker.usage import UsageCounter

NOBODY = "redis://127.0.0.1:1/0"


@pytest.mark.parametrize("broker", ["redis://127.0.0.1:2/0", NOBODY])
async def test_a_runtime_closes_what_writes_before_it_closes_redis(
    monkeypatch: pytest.MonkeyPatch, broker: str
) -> None:
    closed: list[str] = []
    parts = ((StreamWriter, "close"), (Drift, "close"), (UsageCounter, "close"))
    for kind, name in (*parts, (Groq, "close"), (Resend, "close"), (Redis, "aclose")):

        async def note(*_: Any, kind: type = kind) -> None:
            closed.append(kind.__name__)

        monkeypatch.setattr(kind, name, note)
    settings = Settings(redis_url=NOBODY, broker_url=broker)
    await open_runtime(settings, {name: Discovery((), ()) for name in SERVICES}).close()
    redis = ["Redis"] if broker == NOBODY else ["Redis", "Redis"]
    assert closed == ["Groq", "Resend", "StreamWriter", "Drift", "UsageCounter", *redis]
