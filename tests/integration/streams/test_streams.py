"""The records of a stream while its answer comes, on a real Redis."""

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from tests.integration.streams.streams_read import RESULT, idle, records, texts
from worker.streams import AnswerStream, StreamWriter, finish_stream
from worker.streams.answer import encoded


async def test_an_answer_is_a_start_some_deltas_and_an_end(
    writer: StreamWriter, redis: Redis
) -> None:
    stream = writer.open("t1")
    stream.calling()
    stream.begin()
    stream.piece(reasoning="h")
    stream.piece(reasoning="m")
    stream.piece(text="hel")
    stream.piece(text="lo", tool_calls=[{"index": 0, "id": "c1"}, {"index": 1, "id": "c2"}])
    await finish_stream(stream, RESULT)

    assert await records(redis) == [
        {"type": "start", "attempt": "1"},
        {"type": "delta", "attempt": "1", "text": "hello", "reasoning": "hm",
            "tool_calls": '[{"index":0,"id":"c1"},{"index":1,"id":"c2"}]'},
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
    await asyncio.gather(*(finish_stream(stream, RESULT) for stream in streams))
    for number in range(50):
        written = await records(redis, f"t{number}")
        assert texts(written) == "".join(f"{token} " for token in range(200))
        assert len(written) <= writes + 2
    assert writes < 100  # not one for each of 10,000 tokens


async def test_a_stream_lives_from_its_first_record_even_if_its_worker_dies(
    writer: StreamWriter, redis: Redis
) -> None:
    stream = writer.open("t1")
    stream.begin()
    stream.piece(text="hel")
    await idle(writer)
    assert texts(await records(redis)) == "hel"
    assert 590_000 < await redis.pttl("kw:stream:t1") <= 600_000


async def test_a_second_attempt_in_a_turn_restarts_the_stream(
    writer: StreamWriter, redis: Redis
) -> None:
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
    await finish_stream(stream, RESULT)
    written = await records(redis)
    assert [(record["type"], record["attempt"]) for record in written] == [
        ("restart", "3"),
        ("delta", "3"),
        ("end", "3"),
    ]
    assert texts(written) == "whole"
    # A reader that stopped in the middle of the first answer continues with the second.
    [[_, resumed]] = await redis.xread({"kw:stream:t1": first[-1][0]})
    assert [fields for _, fields in resumed] == written


@pytest.mark.parametrize(
    ("left", "attempts", "expected"),
    [
        # no records yet
        (None, 0, ("start", "1")),
        # an earlier turn made two calls; its stream still exists, or has expired
        ({"type": "wait", "attempt": "2"}, 2, ("restart", "3")),
        (None, 2, ("restart", "3")),
        # a worker died, so the message has no record of its call
        ({"type": "delta", "attempt": "1", "text": "x"}, 0, ("restart", "2")),
        # the job waited for a key, and made no call
        ({"type": "wait", "attempt": "0"}, 0, ("restart", "1")),
        # records of another program
        ({"type": "x"}, 0, ("restart", "1")),
        ({"attempt": "9" * 40}, 0, ("restart", "1")),
    ],
)
async def test_an_answer_after_something_else_is_a_restart(
    writer: StreamWriter,
    redis: Redis,
    left: dict[str, str] | None,
    attempts: int,
    expected: tuple[str, str],
) -> None:
    if left:
        await redis.xadd("kw:stream:t1", left)
    stream = writer.open("t1", attempts=attempts)
    stream.calling()
    stream.begin()
    await finish_stream(stream, RESULT)
    first, *_ = await records(redis)
    assert (first["type"], first["attempt"]) == expected


async def test_half_a_character_breaks_no_stream(writer: StreamWriter, redis: Redis) -> None:
    stream = writer.open("t1")
    stream.begin()
    stream.piece(text="a \ud83d")
    stream.piece(text="\udd11 b \ud83d")
    await finish_stream(stream, RESULT)
    assert texts(await records(redis)) == "a \U0001f511 b \ufffd"
    assert encoded("ü") == "ü".encode()


def test_of_all_records_only_the_last_one_is_urgent() -> None:
    ended: list[bool] = []
    stream = AnswerStream("s", attempts=0, notify=lambda _, urgent: ended.append(urgent))
    stream.begin()
    stream.piece(text="x")
    stream.piece(tool_calls=[{"index": 0}])
    assert ended == [False] * 3, "several tokens share a write"
    stream.close("end")
    assert ended == [False] * 3 + [True]
    stream.give_up()
    stream.piece(text="more")
    assert len(ended) == 4
