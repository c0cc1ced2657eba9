"""What a job's stream holds, and that writing it never gets in anybody's way."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import Reject, Retry
from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import ConnectionError as NoRedis
from redis.exceptions import ReadOnlyError, ResponseError

from worker.aio.errors import SoftTimeLimit
from worker.errors import Deferred, Fault, FaultBudgetSpent, InvalidArguments
from worker.history import History
from worker.streams import AnswerStream, StreamWriter, answer_stream, stream_name, tell_done, telling
from worker.streams import writer as writing
from worker.streams.answer import encoded

RESULT = {"text": "hello", "finish_reason": "stop", "model": "m", "usage": {"total_tokens": 7}, "tool_calls": []}


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client made as the runtime makes its own."""
    client = Redis.from_pool(BlockingConnectionPool.from_url(redis_url, decode_responses=True, max_connections=4))
    yield client
    await client.aclose()


@pytest.fixture
async def writer(redis: Redis) -> AsyncIterator[StreamWriter]:
    made = StreamWriter(redis, namespace="kw", expires_s=600)
    yield made
    await made.close()


async def records(redis: Redis, task_id: str = "t1") -> list[dict[str, str]]:
    return [fields for _, fields in await redis.xrange(stream_name("kw", task_id))]


async def over(stream: AnswerStream) -> None:
    async with asyncio.timeout(30):
        await stream.over.wait()


async def until(check: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not check():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.002)


def texts(found: list[dict[str, str]]) -> str:
    return "".join(record.get("text", "") for record in found)


async def test_an_answer_is_a_start_some_deltas_and_an_end(writer: StreamWriter, redis: Redis) -> None:
    stream = writer.open("t1")
    stream.calling()
    stream.begin()
    stream.piece(reasoning="hm")
    stream.piece(text="hel")
    stream.piece(text="lo", tool_calls=[{"index": 0, "id": "c1"}])
    await tell_done(stream, RESULT)

    assert await records(redis) == [
        {"type": "start", "attempt": "1"},
        {"type": "delta", "attempt": "1", "text": "hello", "reasoning": "hm", "tool_calls": '[{"index":0,"id":"c1"}]'},
        {
            "type": "end", "attempt": "1", "status": "done",
            "finish_reason": "stop", "model": "m", "usage": '{"total_tokens": 7}',
        },
    ]  # fmt: skip
    assert 590_000 < await redis.pttl("kw:stream:t1") <= 600_000


async def test_tokens_that_come_together_share_a_record_and_a_write(
    writer: StreamWriter, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = 0
    write = writer._write

    async def counted(batch: list[AnswerStream]) -> Any:
        nonlocal writes
        writes += 1
        return await write(batch)

    monkeypatch.setattr(writer, "_write", counted)
    streams = [writer.open(f"t{number}") for number in range(50)]
    for stream in streams:
        stream.begin()
    for token in range(200):
        for stream in streams:
            stream.piece(text=f"{token} ")
        await asyncio.sleep(0)
    await asyncio.gather(*(tell_done(stream, RESULT) for stream in streams))
    for number in range(50):
        found = await records(redis, f"t{number}")
        assert texts(found) == "".join(f"{token} " for token in range(200))
        assert len(found) <= writes + 2
    assert writes < 100  # not one for each of 10,000 tokens


async def test_a_stream_lives_from_its_first_record_even_if_its_worker_dies(writer: StreamWriter, redis: Redis) -> None:
    stream = writer.open("t1")
    stream.begin()
    stream.piece(text="hel")
    await idle(writer)
    assert texts(await records(redis)) == "hel"
    assert 590_000 < await redis.pttl("kw:stream:t1") <= 600_000


async def test_a_second_attempt_in_a_turn_begins_the_stream_anew(writer: StreamWriter, redis: Redis) -> None:
    stream = writer.open("t1", attempts=0)
    stream.calling()
    stream.begin()
    stream.piece(text="broken")
    await idle(writer)
    first = await redis.xrange("kw:stream:t1")
    stream.calling()
    stream.calling()  # refused before its first piece
    stream.begin()
    stream.piece(text="whole")
    await tell_done(stream, RESULT)
    found = await records(redis)
    assert [(record["type"], record["attempt"]) for record in found] == [("restart", "3"), ("delta", "3"), ("end", "3")]
    assert texts(found) == "whole"
    # Who stopped reading in the middle of the first goes on with the second.
    [[_, resumed]] = await redis.xread({"kw:stream:t1": first[-1][0]})
    assert [fields for _, fields in resumed] == found


@pytest.mark.parametrize(
    ("left", "attempts", "expected"),
    [
        # nothing came before
        (None, 0, ("start", "1")),
        # an earlier turn made two calls; its stream is still there, or has expired
        ({"type": "wait", "attempt": "2"}, 2, ("restart", "3")),
        (None, 2, ("restart", "3")),
        # a worker died, so that the message knows nothing of its call
        ({"type": "delta", "attempt": "1", "text": "x"}, 0, ("restart", "2")),
        # it waited for a key, and made no call
        ({"type": "wait", "attempt": "0"}, 0, ("restart", "1")),
        # something that nobody of ours wrote
        ({"type": "x"}, 0, ("restart", "1")),
        ({"attempt": "9" * 40}, 0, ("restart", "1")),
    ],
)
async def test_an_answer_after_something_else_is_a_restart(
    writer: StreamWriter, redis: Redis, left: dict[str, str] | None, attempts: int, expected: tuple[str, str]
) -> None:
    if left:
        await redis.xadd("kw:stream:t1", left)
    stream = writer.open("t1", attempts=attempts)
    stream.calling()
    stream.begin()
    await tell_done(stream, RESULT)
    first, *_ = await records(redis)
    assert (first["type"], first["attempt"]) == expected


async def looked(*streams: AnswerStream) -> None:
    await until(lambda: all(stream.looked for stream in streams))


async def idle(*writers: StreamWriter) -> None:
    await until(lambda: all(writer._task is None or writer._task.done() for writer in writers))


@pytest.fixture
async def other(redis: Redis) -> AsyncIterator[StreamWriter]:
    """The writer of another worker."""
    made = StreamWriter(redis, namespace="kw", expires_s=600)
    yield made
    await made.close()


async def test_of_two_turns_at_once_the_later_one_has_the_stream(
    writer: StreamWriter, other: StreamWriter, redis: Redis
) -> None:
    """A worker that was taken for dead goes on, and knows nothing of the other one."""
    first = writer.open("t1")
    await looked(first)
    first.begin()
    first.piece(text="from the first")
    await idle(writer)
    second = other.open("t1")
    second.calling()
    second.begin()
    second.piece(text="from the second")
    await idle(other)
    first.piece(text=", still")
    await idle(writer)
    first.begin()  # another attempt of it, which would clear the stream
    await tell_done(first, RESULT)  # and its job is not held up
    assert first.over.is_set()
    await tell_done(second, RESULT)
    assert [record["type"] for record in await records(redis)] == ["restart", "delta", "end"]
    assert texts(await records(redis)) == "from the second"


async def test_two_turns_that_begin_at_the_same_instant_do_not_mix(
    writer: StreamWriter, other: StreamWriter, redis: Redis
) -> None:
    first, second = writer.open("t1"), other.open("t1")
    await looked(first, second)
    second._claim = first._claim
    for stream, home in ((first, writer), (second, other)):
        stream.begin()
        stream.piece(text="one ")
        await idle(home)
    first.piece(text="two")
    await idle(writer)
    second.piece(text="two")
    await asyncio.gather(*(tell_done(stream, RESULT) for stream in (first, second)))
    assert [record["type"] for record in await records(redis)] == ["restart", "delta", "delta", "end"]
    assert texts(await records(redis)) == "one two"


async def test_a_turn_that_has_gone_back_to_the_queue_does_not_speak_after_the_next_one(
    writer: StreamWriter, other: StreamWriter, redis: Redis
) -> None:
    """The next message is published before this turn ends, so the next turn may be quicker."""
    with pytest.raises(Retry):  # noqa: PT012 - what happens in between is the point
        async with answer_stream(writer, request()) as early:
            await looked(early)
            late = other.open("t1")
            late.begin()
            late.piece(text="hello")
            await idle(other)
            raise Retry(exc=Deferred(1, "cooling"), when=0.001)
    await tell_done(late, RESULT)
    assert [record["type"] for record in await records(redis)] == ["start", "delta", "end"]


async def test_what_a_broken_connection_delivers_late_changes_nothing(redis: Redis) -> None:
    flaky = Flaky(redis, "", "delivered late")
    writer = StreamWriter(flaky, namespace="kw", expires_s=600)  # type: ignore[arg-type]
    stream = writer.open("t1")
    stream.begin()
    stream.piece(text="one ")
    await idle(writer)
    stream.piece(text="two")
    await tell_done(stream, RESULT)
    before = await redis.xrange("kw:stream:t1")
    [late] = flaky.late
    assert all("equal or smaller" in str(answer) for answer in (await late(raise_on_error=False))[:1])
    assert await redis.xrange("kw:stream:t1") == before
    assert texts(await records(redis)) == "one two"
    await writer.close()


@pytest.mark.parametrize("more", ["two", ""])
async def test_a_stream_that_vanishes_in_the_middle_begins_anew(writer: StreamWriter, redis: Redis, more: str) -> None:
    stream = writer.open("t1")
    stream.calling()
    stream.begin()
    stream.piece(text="one ")
    await idle(writer)
    assert await redis.delete("kw:stream:t1")
    stream.piece(text=more)
    await tell_done(stream, RESULT)
    found = await records(redis)
    assert [record["type"] for record in found] == ["restart", "delta", "end"]
    assert texts(found) == f"one {more}"


def request(attempts: int = 0) -> Any:
    return SimpleNamespace(id="t1", headers=History(since_ms=1, attempts=attempts).headers())


# What ends a turn, and the last record of its stream.
ENDS: list[tuple[BaseException, dict[str, str] | None]] = [
    (
        Retry(exc=Deferred(12_500, "cooling"), when=12.5),
        {"type": "wait", "attempt": "4", "reason": "cooling", "seconds": "12.500"},
    ),
    (Retry(exc=Fault("Groq failed"), when=1), {"type": "wait", "reason": "Groq failed", "seconds": "1.000"}),
    (Retry("again"), {"type": "wait", "reason": "the job runs again", "seconds": "0.000"}),
    (
        FaultBudgetSpent("gave up after 5 tries"),
        {"type": "end", "status": "failed", "error": "FaultBudgetSpent", "reason": "gave up after 5 tries"},
    ),
    (InvalidArguments("temperature: no"), {"type": "end", "error": "InvalidArguments", "reason": "temperature: no"}),
    (SoftTimeLimit(270), {"type": "end", "status": "failed", "error": "SoftTimeLimitExceeded"}),
    # its words may quote anything
    (
        KeyError("a secret"),
        {"type": "end", "error": "KeyError", "reason": "an unexpected error; the worker's log tells more"},
    ),
    # the job comes again, or nobody can tell
    (Reject("no broker", requeue=True), None),
    (asyncio.CancelledError(), None),
]


@pytest.mark.parametrize(("error", "expected"), ENDS, ids=[type(error).__name__ for error, _ in ENDS])
async def test_however_a_turn_ends_its_reader_is_told(
    writer: StreamWriter, redis: Redis, error: BaseException, expected: dict[str, str] | None
) -> None:
    with pytest.raises(type(error)):
        async with answer_stream(writer, request(attempts=4)):
            raise error
    found = await records(redis)
    if expected is None:
        assert found == []
    else:
        assert found[-1] | expected == found[-1]
    assert "a secret" not in str(found)


async def test_half_a_character_breaks_no_stream(writer: StreamWriter, redis: Redis) -> None:
    stream = writer.open("t1")
    stream.begin()
    stream.piece(text="a \ud83d")
    stream.piece(text="\udd11 b \ud83d")
    await tell_done(stream, RESULT)
    assert texts(await records(redis)) == "a \U0001f511 b \ufffd"
    assert encoded("ü") == "ü".encode()


REFUSALS = {
    "read-only": ReadOnlyError("replica"),
    "no disk": ResponseError("MISCONF Redis is configured to save RDB snapshots, but it's unable to persist to disk."),
}


class Flaky:
    """A Redis client whose pipelines fail as told: before anything, or after all was written."""

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
    flaky = Flaky(redis, "", trouble, trouble)
    writer = StreamWriter(flaky, namespace="kw", expires_s=600)  # type: ignore[arg-type]
    stream = writer.open("t1")
    stream.calling()
    stream.begin()
    stream.piece(text="one ")
    await idle(writer)
    stream.piece(text="two ")
    await until(lambda: len(flaky.plan) < 2)
    stream.piece(text="three")
    await tell_done(stream, RESULT)
    await over(stream)
    found = await records(redis)
    assert found[0]["type"] == "restart"
    assert {record["attempt"] for record in found} == {"1"}
    assert texts(found) == "one two three"
    assert [record["type"] for record in found].count("end") == 1
    assert caplog.text.count("streams cannot be written") == 1
    await writer.close()


async def test_a_redis_that_stays_away_costs_a_job_two_seconds_and_not_its_result(
    redis: Redis, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "CLOSING_PATIENCE_S", 0.05)
    monkeypatch.setattr(writing, "TROUBLE_PATIENCE_S", 0.2)
    writer = StreamWriter(Flaky(redis, *["unreachable"] * 1_000), namespace="kw", expires_s=600)  # type: ignore[arg-type]
    async with answer_stream(writer, request()) as stream:
        stream.begin()
        stream.piece(text="x")
        await tell_done(stream, RESULT)
    assert not stream.over.is_set()
    await over(stream)  # later the writer gives up as well
    assert "kw:stream:t1 is left incomplete (ConnectionError)" in caplog.text
    await idle(writer)


async def test_a_name_that_is_taken_spoils_one_stream_only(
    writer: StreamWriter, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    await redis.set("kw:stream:t1", "somebody's")
    taken, good = writer.open("t1"), writer.open("t2")
    for stream in (taken, good):
        stream.begin()
        stream.piece(text="x")
    await asyncio.gather(tell_done(taken, RESULT), tell_done(good, RESULT))
    taken.piece(text="more")
    assert texts(await records(redis, "t2")) == "x"
    assert await redis.get("kw:stream:t1") == "somebody's"
    assert caplog.text.count("is left incomplete") == 1


async def test_closing_writes_what_is_left_and_can_be_repeated(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
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


async def test_a_stream_is_bounded(writer: StreamWriter, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "MOST_RECORDS", 50)
    monkeypatch.setattr(writing, "INTERVAL_S", 0.0)
    stream = writer.open("t1")
    stream.begin()
    for number in range(200):
        stream.piece(text=f"{number} ")
        await idle(writer)
    assert await redis.xlen("kw:stream:t1") <= 150  # Redis drops whole nodes of 100 records
