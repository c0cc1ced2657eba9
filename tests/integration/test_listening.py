"""A worker receives cancels, even after the server that notified it has gone silent."""

import asyncio
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redis.asyncio import Redis

from config.settings import Settings
from config.urls import SecretUrl
from sandbox.redis import EmbeddedRedis
from tests.tcp_proxy import TcpProxy
from worker import listening
from worker.aio.cancelling import cancel_until_ended
from worker.listening import listen
from worker.redis.client import connect


async def test_a_server_that_goes_silent_is_left_for_the_one_behind_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_PING_AFTER_S", "_LOST_AFTER_S", "_RECONNECT_S"):
        monkeypatch.setattr(listening, name, getattr(listening, name) / 20)
    words: asyncio.Queue[str] = asyncio.Queue()
    with (
        EmbeddedRedis(data_dir=tmp_path / "first") as first,
        EmbeddedRedis(data_dir=tmp_path / "second") as second,
        TcpProxy(first.port) as proxy,
    ):
        client = connect(Settings(redis_url=SecretUrl(f"redis://127.0.0.1:{proxy.port}/0")))
        runtime: Any = SimpleNamespace(
            redis=client, pools={}, cancellations=SimpleNamespace(channel="cancelled")
        )
        listening_task = asyncio.create_task(
            listen(runtime, on_cancelled=words.put_nowait, on_reset=words.put_nowait)
        )

        async def say(server: EmbeddedRedis, word: str) -> None:
            async with Redis.from_url(server.url) as teller:
                while not await teller.publish("cancelled", word):  # noqa: ASYNC110 - in Redis
                    await asyncio.sleep(0.02)  # no worker listens yet

        await say(first, "at the first")
        assert await words.get() == "at the first"
        assert first.pid is not None
        os.kill(first.pid, signal.SIGSTOP)
        proxy.target = second.port
        try:
            await say(second, "at the second")
            assert await words.get() == "at the second"
        finally:
            os.kill(first.pid, signal.SIGCONT)
            await cancel_until_ended([listening_task])
            await client.aclose()


async def test_a_reset_wakes_waiting_jobs_at_once_and_jobs_deferred_meanwhile_a_little_later(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "_WAKE_AGAIN_S", 0.05)
    wake_ups: asyncio.Queue[str] = asyncio.Queue()

    async def wake_deferred(service: str) -> None:
        wake_ups.put_nowait(f"{service} deferred")

    def service_named(name: str) -> Any:
        waiting = SimpleNamespace(wake=lambda: wake_ups.put_nowait(f"{name} line"))
        return SimpleNamespace(
            waiting=waiting, pool=SimpleNamespace(names=SimpleNamespace(wake=f"{name}:wake"))
        )

    rotations = {name: service_named(name) for name in ("groq", "resend")}
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        runtime: Any = SimpleNamespace(
            redis=client,
            rotations=rotations,
            pools={name: rotation.pool for name, rotation in rotations.items()},
            cancellations=SimpleNamespace(channel="cancelled"),
            wake_deferred=wake_deferred,
        )
        listening_task = asyncio.create_task(
            listen(
                runtime,
                on_cancelled=lambda job: wake_ups.put_nowait(f"cancelled {job}"),
                on_reset=lambda service: wake_ups.put_nowait(f"{service} reset"),
            )
        )
        try:
            async with asyncio.timeout(20):
                while not await client.publish("groq:wake", "given back"):  # noqa: ASYNC110 - there
                    await asyncio.sleep(0.01)
                assert await wake_ups.get() == "groq line"
                await client.publish("resend:wake", "reset")
                next_four = [await wake_ups.get() for _ in range(4)]
                assert next_four == [
                    "resend line",
                    "resend reset",
                    "resend deferred",
                    "resend deferred",
                ]
                await client.publish("cancelled", "job-1")
                assert await wake_ups.get() == "cancelled job-1"
        finally:
            await cancel_until_ended([listening_task])
    assert wake_ups.empty(), "two wake-ups come, and no third one"
