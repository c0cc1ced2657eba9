"""The file that shows whether a worker's event loop runs."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from config.errors import SettingsError
from worker import heartbeat
from worker.heartbeat import Heartbeat


@asynccontextmanager
async def running(heart: Heartbeat) -> AsyncIterator[None]:
    task = asyncio.create_task(heart.run())
    try:
        yield
    finally:
        task.cancel()


async def test_a_heartbeat_that_cannot_be_written_is_logged_once_until_it_can(
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
    texts = {}
    for heart.started in (False, True):
        for heart.redis_answers in (False, True):
            heart.renew()
            texts[heart.started, heart.redis_answers] = (tmp_path / "heartbeat").read_text()
    assert texts.pop((True, True)) == "ready\n"
    assert list(texts.values()) == ["not ready\n"] * 3


def test_a_worker_that_has_begun_to_take_jobs_is_ready(tmp_path: Path) -> None:
    heart = Heartbeat(tmp_path / "heartbeat")
    heart.redis_answers = True
    heart.create()
    assert (tmp_path / "heartbeat").read_text() == "not ready\n"
    heart.note_start(sender="a worker")
    heart.renew()
    assert (tmp_path / "heartbeat").read_text() == "ready\n"


def test_a_file_with_the_right_content_is_only_touched(tmp_path: Path) -> None:
    """A probe that reads the file at that time must not find it empty."""
    file = tmp_path / "heartbeat"
    heart = Heartbeat(file)
    heart.create()
    file.write_text("of this test")
    os.utime(file, (5.0, 5.0))
    heart.renew()
    assert file.read_text() == "of this test"
    assert file.stat().st_mtime > 1e9
    file.unlink()
    heart.renew()
    assert file.read_text() == "not ready\n"


def test_a_bug_in_a_beat_is_not_taken_for_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heart = Heartbeat(tmp_path / "heartbeat")
    monkeypatch.setattr(Heartbeat, "_beat", lambda _: 1 / 0)
    for beat in (heart.create, heart.renew):
        with pytest.raises(ZeroDivisionError):
            beat()


def test_a_file_in_no_folder_ends_the_start_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot be written \(No such file or directory\)"):
        Heartbeat(tmp_path / "gone" / "heartbeat").create()
