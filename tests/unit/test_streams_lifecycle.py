"""The end of a job's run as the last record of its stream; without a Redis."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import Ignore, Reject, Retry

from tests.unit.unstarted_streams import fields, stream_of
from worker.aio.errors import SoftTimeLimit
from worker.errors import Deferred, InvalidArguments, TransientError
from worker.streams import AnswerStream, answer_stream, finish_stream, lifecycle


class _Writer:
    """Writes nothing, and marks each stream as finished at once."""

    def __init__(self, *, writes: bool = True) -> None:
        self.writes = writes
        self.opened: list[tuple[str, int]] = []

    def open(self, job: str, *, attempts: int) -> AnswerStream:
        self.opened.append((job, attempts))
        return stream_of(attempts=attempts, notify=self._hear)

    def _hear(self, stream: AnswerStream, urgent: bool) -> None:  # noqa: FBT001 - a callback
        if urgent and self.writes:
            stream.finished.set()


def request(**more: Any) -> SimpleNamespace:
    return SimpleNamespace(id="job-1", headers={"keywheel": {"attempts": 2}}, **more)


WAITS = {"limited_by": "tpm", "place": None}
IN_WORDS = "an unexpected error; see the worker's log"


# How a run ends, and its last record, if it has one.
@pytest.mark.parametrize(
    ("error", "record"),
    [
        (
            Retry("", Deferred(2_500, "cooling"), 2.5),
            {"type": "wait", "reason": "cooling", "seconds": "2.500", "limited_by": "tpm"},
        ),
        (
            Retry("", TransientError("no answer came in time"), 1),
            {
                "type": "wait", "reason": "no answer came in time", "seconds": "1.000",
                "limited_by": "tpm",
            },
        ),
        (
            Retry("", ValueError("canary"), None),
            {
                "type": "wait", "reason": "the job runs again", "seconds": "0.000",
                "limited_by": "tpm",
            },
        ),
        (Reject("x", requeue=True), None),
        (Ignore(), None),
        (
            InvalidArguments("to: is required"),
            {
                "type": "end", "status": "failed", "error": "InvalidArguments",
                "reason": "to: is required",
            },
        ),
        (
            SoftTimeLimit(),
            {
                "type": "end", "status": "failed", "error": "SoftTimeLimitExceeded",
                "reason": "the job ran longer than the time limit",
            },
        ),
        (
            ZeroDivisionError("canary"),
            {"type": "end", "status": "failed", "error": "ZeroDivisionError", "reason": IN_WORDS},
        ),
        (asyncio.CancelledError(), None),
    ],
)  # fmt: skip
async def test_a_run_that_does_not_end_well_says_so_in_its_stream(
    error: BaseException, record: dict[str, str] | None
) -> None:
    writer: Any = _Writer()
    with pytest.raises(type(error)) as met:
        async with answer_stream(writer, request(waits=WAITS)) as stream:
            raise error
    assert met.value is error
    assert writer.opened == [("job-1", 2)]
    assert [each.fields for each in stream.take()] == (
        [] if record is None else [fields(**record, attempt=2)]
    )


async def test_a_run_that_ends_well_is_closed_with_its_result() -> None:
    writer: Any = _Writer()
    usage = {"total_tokens": 7}
    async with answer_stream(writer, request()) as stream:
        result = {"finish_reason": "stop", "model": "m", "usage": usage, "empty_because": "x"}
        await finish_stream(stream, result)
    end = fields(
        type="end", status="done", finish_reason="stop", model="m", usage=json.dumps(usage),
        empty_because="x", attempt=2,
    )  # fmt: skip
    assert [each.fields for each in stream.take()] == [end]
    await finish_stream(bare := stream_of(notify=writer._hear), {})
    [record] = bare.take()
    assert record.fields == fields(
        type="end", status="done", finish_reason="", model="", usage="{}", attempt=0
    )


async def test_a_job_waits_until_its_last_record_is_written() -> None:
    writer: Any = _Writer(writes=False)
    stream = writer.open("job-1", attempts=0)
    finishing = asyncio.ensure_future(finish_stream(stream, {}))
    await asyncio.wait([finishing], timeout=0.01)
    assert not finishing.done()
    stream.finished.set()
    await asyncio.wait_for(finishing, 10)


async def test_a_job_does_not_wait_for_long_for_its_last_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lifecycle, "CLOSE_TIMEOUT_S", 0.001)
    writer: Any = _Writer(writes=False)
    async with answer_stream(writer, request()) as stream:
        await asyncio.wait_for(finish_stream(stream, {}), 10)
    assert not stream.finished.is_set()
    assert stream.closed
