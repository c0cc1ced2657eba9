"""Several turns of one job, which have one stream."""

import asyncio

import pytest
from celery.exceptions import Reject, Retry
from redis.asyncio import Redis

from tests.integration.streams.streams_read import RESULT, idle, records, request, texts, until
from worker.aio.errors import SoftTimeLimit
from worker.errors import Deferred, InvalidArguments, RetriesExhausted, TransientError
from worker.streams import AnswerStream, StreamWriter, answer_stream, finish_stream


async def looked(*streams: AnswerStream) -> None:
    await until(lambda: all(stream.is_claimed for stream in streams))


async def test_of_two_turns_at_once_the_later_one_has_the_stream(
    writer: StreamWriter, other: StreamWriter, redis: Redis
) -> None:
    """A worker that was taken for dead goes on, and does not know of the other worker."""
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
    first.begin()  # another attempt of the first turn, which would clear the stream
    await finish_stream(first, RESULT)  # and its job is not delayed
    assert first.finished.is_set()
    await finish_stream(second, RESULT)
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
    await asyncio.gather(*(finish_stream(stream, RESULT) for stream in (first, second)))
    assert [record["type"] for record in await records(redis)] == [
        "restart",
        "delta",
        "delta",
        "end",
    ]
    assert texts(await records(redis)) == "one two"


async def test_a_turn_that_has_gone_back_to_the_queue_does_not_speak_after_the_next_one(
    writer: StreamWriter, other: StreamWriter, redis: Redis
) -> None:
    """The next message is published before this turn ends, so the next turn may be faster."""
    with pytest.raises(Retry):  # noqa: PT012 - what happens in between is the point
        async with answer_stream(writer, request()) as early:
            await looked(early)
            late = other.open("t1")
            late.begin()
            late.piece(text="hello")
            await idle(other)
            raise Retry(exc=Deferred(1, "cooling"), when=0.001)
    await finish_stream(late, RESULT)
    assert [record["type"] for record in await records(redis)] == ["start", "delta", "end"]


async def test_a_cancel_writes_no_second_end_and_begins_no_stream(
    writer: StreamWriter, other: StreamWriter, redis: Redis
) -> None:
    for expected in ([], ["start", "delta", "end"]):
        if expected:
            stream = writer.open("t1")
            stream.begin()
            stream.piece(text="hello")
            await finish_stream(stream, RESULT)
        other.open("t1").close_from_outside(creates=False, status="failed", error="Revoked")
        await idle(other)
        assert [record["type"] for record in await records(redis)] == expected


# The end of a turn, and the last record of its stream.
ENDS: list[tuple[BaseException, dict[str, str] | None]] = [
    (
        Retry(exc=Deferred(12_500, "cooling"), when=12.5),
        {"type": "wait", "attempt": "4", "reason": "cooling", "seconds": "12.500"},
    ),
    (
        Retry(exc=TransientError("Groq failed"), when=1),
        {"type": "wait", "reason": "Groq failed", "seconds": "1.000"},
    ),
    (Retry("again"), {"type": "wait", "reason": "the job runs again", "seconds": "0.000"}),
    (
        RetriesExhausted("gave up after 5 tries"),
        {
            "type": "end",
            "status": "failed",
            "error": "RetriesExhausted",
            "reason": "gave up after 5 tries",
        },
    ),
    (
        InvalidArguments("temperature: no"),
        {"type": "end", "error": "InvalidArguments", "reason": "temperature: no"},
    ),
    (SoftTimeLimit(270), {"type": "end", "status": "failed", "error": "SoftTimeLimitExceeded"}),
    # its message may quote anything
    (
        KeyError("a secret"),
        {
            "type": "end",
            "error": "KeyError",
            "reason": "an unexpected error; see the worker's log",
        },
    ),
    # the job comes back, or its end is not known
    (Reject("no broker", requeue=True), None),
    (asyncio.CancelledError(), None),
]


@pytest.mark.parametrize(
    ("error", "expected"), ENDS, ids=[type(error).__name__ for error, _ in ENDS]
)
async def test_however_a_run_ends_its_stream_says_so(
    writer: StreamWriter, redis: Redis, error: BaseException, expected: dict[str, str] | None
) -> None:
    with pytest.raises(type(error)):
        async with answer_stream(writer, request(attempts=4)):
            raise error
    written = await records(redis)
    if expected is None:
        assert written == []
    else:
        assert written[-1] | expected == written[-1]
    assert "a secret" not in str(written)


async def test_a_stream_has_fields_that_say_why_the_job_waits(
    writer: StreamWriter, redis: Redis
) -> None:
    at = "2026-11-29T00:00:10.000+00:00"
    waits = {"kind": "key", "code": "rpm", "next_try": at, "expected_end": at}
    job = request()
    job.waits = waits
    with pytest.raises(Retry):
        async with answer_stream(writer, job):
            raise Retry(exc=Deferred(10_000, "rpm"), when=10)
    written = await records(redis)
    assert written[-1] | waits == written[-1]
    job.waits = waits | {"expected_end": None}  # not known
    with pytest.raises(Retry):
        async with answer_stream(writer, job):
            raise Retry(exc=Deferred(10_000, "rpm"), when=10)
    assert "expected_end" not in (await records(redis))[-1]
