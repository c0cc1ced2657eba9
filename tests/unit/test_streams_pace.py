"""When the writer of streams writes: its pauses, its interval, and urgent records."""

import asyncio
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import Any

import pytest
from redis.exceptions import ConnectionError as LostError

from tests.unit.unstarted_streams import LOADING, Server, server, stream_of, writer
from worker.streams import writer as writer_module
from worker.streams.answer import AnswerStream
from worker.streams.writer import StreamWriter

__all__ = ["server", "writer"]


async def test_trouble_is_logged_once_and_pauses_grow_until_a_finished_stream_is_given_up(
    writer: StreamWriter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now_s = 1000.0
    loop = SimpleNamespace(time=lambda: now_s)
    monkeypatch.setattr("worker.streams.writer.asyncio.get_running_loop", lambda: loop)
    running, closed = stream_of(), stream_of()
    closed.close("end")
    pauses_s = []
    for _ in range(7):
        writer._waiting.clear()
        writer._on_failure(dict.fromkeys((running, closed), LOADING))
        pauses_s.append(writer._pause_s)
        assert [*writer._waiting] == [running, closed]
        now_s += 10
    assert pauses_s == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert caplog.messages == [f"cannot write streams ({LOADING}); the jobs go on"]
    now_s -= 10
    assert closed.failing_since_s == 1000.0
    closed.on_written()
    assert closed.failing_since_s == 0.0
    closed.on_lost()
    closed.failing_since_s = 1000.0
    now_s = 1060.1
    writer._waiting.clear()
    writer._on_failure(dict.fromkeys((running, closed), LOADING))
    assert [*writer._waiting] == [running]
    assert closed.take() == []
    assert "stays incomplete" in caplog.text


async def test_an_urgent_record_is_written_at_once_unless_writes_fail(
    writer: StreamWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    waited: list[float] = []
    timeout = asyncio.timeout

    async def sleep(after_s: float) -> None:
        slept.append(after_s)

    def wait(after_s: float) -> asyncio.Timeout:
        waited.append(after_s)
        return timeout(0)

    loop: Any = SimpleNamespace(time=lambda: 1000.0)
    monkeypatch.setattr("worker.streams.writer.asyncio.sleep", sleep)
    monkeypatch.setattr("worker.streams.writer.asyncio.timeout", wait)
    writer._next_s = 1000.25
    await writer._pace(loop)
    assert (slept, waited) == ([], [0.25])
    writer._next_s = 1000.0
    await writer._pace(loop)
    assert waited == [0.25]
    writer._next_s = 4600.0
    writer._urgent.set()
    await writer._pace(loop)
    assert (slept, waited) == ([], [0.25, 3600.0])
    writer._pause_s = 0.4
    await writer._pace(loop)
    assert (slept, waited) == ([0.4], [0.25, 3600.0])


async def test_records_are_written_until_none_wait_and_the_next_one_starts_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "INTERVAL_S", 0.0)
    monkeypatch.setattr(writer_module, "_FIRST_PAUSE_S", 0.0)
    made = StreamWriter(server, namespace="ns", expires_s=60)  # type: ignore[arg-type]
    written: list[list[AnswerStream]] = []
    plan: list[Any] = [{}, LostError("gone"), {}, OSError("reset")]

    async def write(batch: list[AnswerStream]) -> Any:
        written.append(batch)
        if isinstance(answer := plan.pop(0), Exception):
            raise answer
        return answer

    monkeypatch.setattr(made, "_write", write)

    async def ended(task: Awaitable[None] | None) -> None:
        assert task is not None
        await task

    first = made.open("a")
    await ended(made._task)
    assert written == [[first]]
    second = made.open("b")
    await ended(made._task)  # it fails once, and is tried again
    assert written == [[first], [second], [second]]
    assert made._pause_s == 0.0
    task = made._task
    await made.close()
    await made.close()
    assert task is not None
    assert made._task is None


async def test_a_write_waits_for_its_turn_unless_it_is_urgent_or_the_last_one(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = StreamWriter(server, namespace="ns", expires_s=60)  # type: ignore[arg-type]
    written: list[list[AnswerStream]] = []
    wrote = asyncio.Event()

    async def write(batch: list[AnswerStream]) -> Any:
        written.append(batch)
        wrote.set()
        return {}

    async def next_write() -> None:
        async with asyncio.timeout(10):
            await wrote.wait()
        wrote.clear()

    monkeypatch.setattr(made, "_write", write)
    monkeypatch.setattr(writer_module, "INTERVAL_S", 3600.0)
    stream = made.open("a")
    await next_write()
    stream.begin()
    paused = made._task
    assert paused is not None
    await asyncio.wait([paused], timeout=0.01)
    assert written == [[stream]]
    stream.close("end")
    await next_write()
    assert written == [[stream]] * 2
    other = made.open("b")
    await made.close()
    assert written == [[stream], [stream], [other]]
