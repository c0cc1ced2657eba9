"""What the writer of streams sends, and how it handles Redis' replies; without a Redis."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, call

import pytest
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import ResponseError

from tests.unit.unstarted_streams import NAME, fields, stream_of
from worker.streams import writer as writer_module
from worker.streams.answer import AnswerStream
from worker.streams.writer import MAX_RECORDS, StreamWriter


class Pipe:
    """Notes the commands of a round trip, and answers as planned."""

    def __init__(self, answers: list[Any]) -> None:
        self.commands: list[Any] = []
        self._answers = answers

    def __len__(self) -> int:
        return len(self.commands)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **options: self.commands.append(getattr(call, name)(*args, **options))

    async def execute(self, *, raise_on_error: bool) -> list[Any]:
        assert not raise_on_error
        return self._answers


class Server:
    def __init__(self) -> None:
        self.plan: list[list[Any]] = []
        self.pipes: list[Pipe] = []

    def pipeline(self, *, transaction: bool) -> Pipe:
        assert not transaction
        self.pipes.append(Pipe(self.plan.pop(0)))
        return self.pipes[-1]


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def writer(server: Server) -> StreamWriter:
    made = StreamWriter(server, namespace="ns", expires_s=60.5)  # type: ignore[arg-type]
    made._task = Mock(done=lambda: False)  # it writes only what the tests have it write
    return made


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


# What Redis has of a stream, and the attempt that the next record says.
@pytest.mark.parametrize(
    ("last", "attempt"),
    [
        ([], 0),
        (ResponseError("WRONGTYPE"), 0),
        ([("1-1", {"attempt": "4"})], 4),
        ([("1-1", {})], 0),
        ([("1-1", {"attempt": "-4"})], 0),
        ([("1-1", {"attempt": "four"})], 0),
        ([("1-1", {"attempt": "٤"})], 0),  # a digit, and not one of ours
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
LOADING = ResponseError("LOADING Redis is loading the dataset in memory")
WRONG = ResponseError("WRONGTYPE Operation against a key")


# How Redis answers, and what becomes of the stream: it is tried again at once or after a pause, it
# is given up, or written.
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
    await ended(made._task)  # fails once, and is tried again
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
