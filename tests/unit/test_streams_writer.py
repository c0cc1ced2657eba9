"""The commands of the writer of streams, and its handling of Redis' replies; without a Redis."""

import asyncio
from types import SimpleNamespace
from typing import Any
from unittest.mock import call

import pytest
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import ResponseError

from tests.unit.unstarted_streams import LOADING, NAME, Server, fields, server, stream_of, writer
from worker.streams.writer import MAX_RECORDS, StreamWriter

__all__ = ["server", "writer"]


async def test_streams_are_claimed_and_written_in_one_round_trip_each(
    server: Server, writer: StreamWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 1000.0
    loop = SimpleNamespace(time=lambda: now_s, create_task=asyncio.get_running_loop().create_task)
    monkeypatch.setattr("worker.streams.writer.asyncio.get_running_loop", lambda: loop)
    first, second = writer.open("a"), writer.open("b", attempts=2)
    assert [*writer._waiting] == [first, second]
    first.begin()
    first.piece(text="x")
    second.close("end", status="failed")
    last = [("9000-4", {"type": "end", "attempt": "3"})]
    server.plan = [[(8, 12_999), [], last], [b"", b"", True, b"", True]]
    assert await writer._write([first, second]) == {}
    claims, writes = (pipe.commands for pipe in server.pipes)
    assert claims == [
        call.time(),
        call.xrevrange("ns:stream:a", count=1),
        call.xrevrange("ns:stream:b", count=1),
    ]
    start, delta = fields(type="start", attempt=0), fields(type="delta", attempt=0, text="x")
    end = fields(type="end", status="failed", attempt=3)
    alone, many = {"maxlen": 1, "approximate": False}, {"maxlen": MAX_RECORDS}
    assert writes == [
        call.xadd("ns:stream:a", start, id="8012-1", nomkstream=False, **alone),
        call.xadd("ns:stream:a", delta, id="8012-2", nomkstream=True, **many),
        call.pexpire("ns:stream:a", 60_500),
        call.xadd("ns:stream:b", end, id="9001-1", nomkstream=False, **many),
        call.pexpire("ns:stream:b", 60_500),
    ]
    assert (first.finished.is_set(), second.finished.is_set()) == (False, True)
    for after_s, kinds in ((0.9, ["xadd"]), (0.2, ["xadd", "pexpire"]), (9.0, [])):
        now_s += after_s
        if kinds:
            first.piece(text="y")
        server.plan = [[b"", True][: len(kinds)]]
        await writer._write([first])
        assert [each[0] for each in server.pipes[-1].commands] == kinds
    first.close("end")
    server.plan = [[b"", True]]
    await writer._write([first])
    assert [each[0] for each in server.pipes[-1].commands] == ["xadd", "pexpire"]


@pytest.mark.parametrize("kind", ["end", "delta"])
async def test_a_stream_that_has_ended_gets_no_second_end_from_outside(
    server: Server, writer: StreamWriter, kind: str
) -> None:
    stream = writer.open("a")
    stream.close_from_outside(creates=True)
    replies = [] if kind == "end" else [b"", True]
    server.plan = [[(8, 0), [("1-1", {"type": kind})]], replies]
    await writer._write([stream])
    written = [each[0] for each in server.pipes[-1].commands]
    assert written == ["xadd", "pexpire"][: len(replies)]


# Redis' records of a stream, and the attempt in the next record.
@pytest.mark.parametrize(
    ("last", "attempt"),
    [
        ([], 0),
        (ResponseError("WRONGTYPE"), 0),
        ([("1-1", {"attempt": "4"})], 4),
        ([("1-1", {})], 0),
        ([("1-1", {"attempt": "-4"})], 0),
        ([("1-1", {"attempt": "four"})], 0),
        ([("1-1", {"attempt": "٤"})], 0),  # a digit, but not an ASCII one
        ([("1-1", {"attempt": "9" * 9})], 999_999_999),
        ([("1-1", {"attempt": "9" * 10})], 0),
    ],
)
async def test_a_stream_of_strangers_does_no_harm(
    server: Server, writer: StreamWriter, last: Any, attempt: int
) -> None:
    stream = writer.open("a")
    stream.close("end")
    server.plan = [[(8, 0), last], [b"", True]]
    await writer._write([stream])
    [added, _] = server.pipes[-1].commands
    assert added.args[1]["attempt"] == b"%d" % attempt


async def test_a_clock_that_cannot_be_read_fails_the_write(
    server: Server, writer: StreamWriter
) -> None:
    server.plan = [[LostError("gone"), []]]
    with pytest.raises(LostError):
        await writer._write([writer.open("a")])


SMALL = ResponseError(
    "The ID specified in XADD is equal or smaller than the target stream top item"
)
WRONG = ResponseError("WRONGTYPE Operation against a key")


# Redis' reply, and the fate of the stream: it is tried again at once or after a pause, given up, or
# written.
@pytest.mark.parametrize(
    ("replies", "outcome", "warning"),
    [
        ([b"", True], "written", None),
        ([None, True], "at once", None),
        ([LOADING, True], "later", None),
        ([b"", SMALL], "at once", None),
        ([WRONG, True], "given up", f"{NAME} stays incomplete ({WRONG}); the job's result is not"),
        ([WRONG, None], "given up", f"{NAME} stays incomplete"),
    ],
)
async def test_the_replies_of_redis_decide_how_a_stream_goes_on(
    writer: StreamWriter,
    caplog: pytest.LogCaptureFixture,
    replies: list[Any],
    outcome: str,
    warning: str | None,
) -> None:
    stream = stream_of()
    stream.begin()
    stream.close("end")
    stream.take()
    refused = writer._account([(stream, reply) for reply in replies])
    assert refused == ({stream: LOADING} if outcome == "later" else {})
    assert [*writer._waiting] == [stream] * (outcome == "at once")
    assert stream.finished.is_set() is (outcome in {"written", "given up"})
    assert bool(stream.take()) is (outcome == "at once")
    assert caplog.text.count(warning or "stays") == (warning is not None)


async def test_a_run_whose_stream_a_later_run_has_writes_no_more(
    writer: StreamWriter, caplog: pytest.LogCaptureFixture
) -> None:
    stream = stream_of()
    stream.close("wait")
    with caplog.at_level("INFO"):
        assert writer._account([(stream, SMALL)]) == {}
    assert caplog.messages == [
        f"{NAME} belongs to a later run of its job; this run writes no more to it"
    ]
    assert stream.finished.is_set()
    assert stream.take() == []
    assert [*writer._waiting] == []
