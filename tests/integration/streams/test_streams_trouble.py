"""Streams whose Redis is down, full or slow, or was changed by a stranger."""

import asyncio
import logging
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as NoRedis
from redis.exceptions import ReadOnlyError, ResponseError

from tests.integration.streams.streams_read import (
    RESULT,
    idle,
    over,
    records,
    request,
    texts,
    until,
)
from worker.streams import StreamWriter, answer_stream, finish_stream, lifecycle
from worker.streams import writer as writing


async def test_a_late_delivery_of_a_broken_connection_changes_nothing(redis: Redis) -> None:
    flaky = Flaky(redis, "", "delivered late")
    writer = StreamWriter(flaky, namespace="kw", expires_s=600)  # type: ignore[arg-type]
    stream = writer.open("t1")
    stream.begin()
    stream.piece(text="one ")
    await idle(writer)
    stream.piece(text="two")
    await finish_stream(stream, RESULT)
    before = await redis.xrange("kw:stream:t1")
    [late] = flaky.late
    assert all(
        "equal or smaller" in str(answer) for answer in (await late(raise_on_error=False))[:1]
    )
    assert await redis.xrange("kw:stream:t1") == before
    assert texts(await records(redis)) == "one two"
    await writer.close()


@pytest.mark.parametrize("more", ["two", ""])
async def test_a_stream_that_vanishes_in_the_middle_restarts(
    writer: StreamWriter, redis: Redis, more: str
) -> None:
    stream = writer.open("t1")
    stream.calling()
    stream.begin()
    stream.piece(text="one ")
    await idle(writer)
    assert await redis.delete("kw:stream:t1")
    stream.piece(text=more)
    await finish_stream(stream, RESULT)
    written = await records(redis)
    assert [record["type"] for record in written] == ["restart", "delta", "end"]
    assert texts(written) == f"one {more}"


async def test_a_stream_expires_though_it_vanished_and_as_long_after_its_end(
    writer: StreamWriter, redis: Redis
) -> None:
    stream = writer.open("t1")
    stream.begin()
    stream.piece(text="one ")
    await idle(writer)
    await redis.delete("kw:stream:t1")
    stream.piece(text="two")
    await idle(writer)
    assert 590_000 < await redis.pttl("kw:stream:t1") <= 600_000
    await redis.pexpire("kw:stream:t1", 30_000)
    await finish_stream(stream, RESULT)
    assert 590_000 < await redis.pttl("kw:stream:t1") <= 600_000


REFUSALS = {
    "read-only": ReadOnlyError("replica"),
    "no disk": ResponseError(
        "MISCONF Redis is configured to save RDB snapshots, but it's unable to persist to disk."
    ),
}


class Flaky:
    """A Redis client whose pipelines fail as planned: before any write, or after all of them."""

    def __init__(self, redis: Redis, *plan: str) -> None:
        self.redis = redis
        self.plan = list(plan)
        self.late: list[Any] = []

    def pipeline(self, **options: Any) -> Any:
        pipe = self.redis.pipeline(**options)
        execute = pipe.execute

        async def planned(**more: Any) -> Any:
            commands = list(pipe.command_stack)
            adds = any(command[0][0] == "XADD" for command in commands)
            step = self.plan.pop(0) if adds and self.plan else ""
            if step == "delivered late":
                later, pipe.command_stack = self.redis.pipeline(**options), []
                later.command_stack = commands
                self.late.append(later.execute)
            if step in {"unreachable", "delivered late"}:
                raise NoRedis("gone")
            if step == "a fault of ours":
                raise ZeroDivisionError
            if step in REFUSALS:
                return [REFUSALS[step]] * len(pipe)
            answers = await execute(**more)
            if step == "answer lost":
                raise NoRedis("gone")
            return answers

        pipe.execute = planned
        return pipe


@pytest.mark.parametrize("trouble", ["unreachable", "answer lost", *REFUSALS])
async def test_trouble_with_redis_leaves_no_gap_and_nothing_twice(
    redis: Redis, trouble: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_FIRST_PAUSE_S", 0.01)
    flaky = Flaky(redis, "", trouble, trouble, trouble)
    writer = StreamWriter(flaky, namespace="kw", expires_s=600)  # type: ignore[arg-type]
    stream = writer.open("t1")
    stream.calling()
    stream.begin()
    stream.piece(text="one ")
    await idle(writer)
    stream.piece(text="two ")
    await until(lambda: len(flaky.plan) < 3)
    stream.piece(text="three")
    await finish_stream(stream, RESULT)
    await over(stream)
    written = await records(redis)
    assert written[0]["type"] == "restart"
    assert {record["attempt"] for record in written} == {"1"}
    assert texts(written) == "one two three"
    assert [record["type"] for record in written].count("end") == 1
    assert caplog.text.count("cannot write streams") == 1
    await writer.close()


async def test_a_fault_of_ours_is_not_taken_for_one_of_redis_and_harms_no_later_stream(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    writer = StreamWriter(Flaky(redis, "a fault of ours"), namespace="kw", expires_s=600)  # type: ignore[arg-type]
    first = writer.open("t0")
    first.calling()
    first.begin()
    first.piece(text="lost")
    assert writer._task is not None
    with pytest.raises(ZeroDivisionError):
        await writer._task
    assert not caplog.messages
    stream = writer.open("t1")
    stream.calling()
    stream.begin()
    stream.piece(text="one")
    await finish_stream(stream, RESULT)
    assert texts(await records(redis)) == "one"
    await writer.close()


async def test_a_redis_that_stays_down_costs_a_job_two_seconds_and_not_its_result(
    redis: Redis, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "CLOSE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(writing, "GIVE_UP_AFTER_S", 0.2)
    writer = StreamWriter(Flaky(redis, *["unreachable"] * 1_000), namespace="kw", expires_s=600)  # type: ignore[arg-type]
    async with answer_stream(writer, request()) as stream:
        stream.begin()
        stream.piece(text="x")
        await finish_stream(stream, RESULT)
    assert not stream.finished.is_set()
    await over(stream)  # later the writer gives up, too
    assert "kw:stream:t1 stays incomplete (gone)" in caplog.text
    await idle(writer)


async def test_a_name_that_is_taken_spoils_one_stream_only(
    writer: StreamWriter, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    await redis.set("kw:stream:t1", "somebody's")
    taken, good = writer.open("t1"), writer.open("t2")
    for stream in (taken, good):
        stream.begin()
        stream.piece(text="x")
    await asyncio.gather(finish_stream(taken, RESULT), finish_stream(good, RESULT))
    taken.piece(text="more")
    assert texts(await records(redis, "t2")) == "x"
    assert await redis.get("kw:stream:t1") == "somebody's"
    assert caplog.text.count("stays incomplete") == 1


async def test_closing_writes_what_is_left_and_can_be_repeated(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    writer = StreamWriter(redis, namespace="other", expires_s=600)
    await writer.close()
    stream = writer.open("t1")
    stream.begin()
    await idle(writer)
    stream.piece(text="x")
    await writer.close()
    await writer.close()
    assert await redis.xlen("other:stream:t1") == 2
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_stream_is_bounded(
    writer: StreamWriter, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "MAX_RECORDS", 50)
    monkeypatch.setattr(writing, "INTERVAL_S", 0.0)
    stream = writer.open("t1")
    stream.begin()
    for number in range(200):
        stream.piece(text=f"{number} ")
        await idle(writer)
    assert await redis.xlen("kw:stream:t1") <= 150  # Redis drops whole nodes of 100 records
