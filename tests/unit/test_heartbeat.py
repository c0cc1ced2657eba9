"""The file that shows that a worker's event loop runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from worker import heartbeat
from worker.heartbeat import Heartbeat


@asynccontextmanager
async def running(heart: Heartbeat) -> AsyncIterator[None]:
    task = asyncio.create_task(heart.run())
    try:
        yield
    finally:
        task.cancel()


async def test_a_heartbeat_that_cannot_be_written_says_so_once_for_as_long_as_it_lasts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(heartbeat, "_INTERVAL_S", 0)
    folder = tmp_path / "run"
    heart, beats, real = Heartbeat(folder / "heartbeat"), 0, Heartbeat._beat

    def beat(self: Any) -> None:
        nonlocal beats
        beats += 1
        real(self)

    monkeypatch.setattr(Heartbeat, "_beat", beat)

    async def beat_thrice() -> None:
        until = beats + 3
        while beats < until:  # noqa: ASYNC110 - each turn of the loop is a beat
            await asyncio.sleep(0)

    async with asyncio.timeout(10), running(heart):
        for times in (1, 2):
            await beat_thrice()
            assert caplog.text.count("cannot renew the heartbeat's file") == times
            folder.mkdir()
            await beat_thrice()
            (folder / "heartbeat").unlink()
            folder.rmdir()
    assert "probes of this worker fail" in caplog.text


def test_only_a_worker_that_takes_jobs_and_has_redis_is_ready(tmp_path: Path) -> None:
    heart = Heartbeat(tmp_path / "heartbeat")
    found = {}
    for heart.started in (False, True):
        for heart.redis_answers in (False, True):
            heart.renew()
            found[heart.started, heart.redis_answers] = (tmp_path / "heartbeat").read_text()
    assert found.pop((True, True)) == "ready\n"
    assert list(found.values()) == ["not ready\n"] * 3
