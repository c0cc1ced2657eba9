"""Functions for the tests of streams: read a stream, and wait for it."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from redis.asyncio import Redis

from worker.jobs.history import History
from worker.streams import AnswerStream, StreamWriter, stream_name

RESULT = {
    "text": "hello",
    "finish_reason": "stop",
    "model": "m",
    "usage": {"total_tokens": 7},
    "tool_calls": [],
}


async def records(redis: Redis, task_id: str = "t1") -> list[dict[str, str]]:
    """Return the records of a job's stream."""
    return [fields for _, fields in await redis.xrange(stream_name("kw", task_id))]


async def over(stream: AnswerStream) -> None:
    """Wait until a stream has its last record."""
    async with asyncio.timeout(30):
        await stream.finished.wait()


async def until(check: Callable[[], Any]) -> None:
    """Wait until a condition is true."""
    async with asyncio.timeout(30):
        while not check():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.002)


def texts(records: list[dict[str, str]]) -> str:
    """Return all pieces of an answer."""
    return "".join(record.get("text", "") for record in records)


async def idle(*writers: StreamWriter) -> None:
    """Wait until writers have written everything."""
    await until(lambda: all(writer._task is None or writer._task.done() for writer in writers))


def request(attempts: int = 0) -> Any:
    """The request that Celery has for a job."""
    return SimpleNamespace(id="t1", headers=History(since_ms=1, attempts=attempts).headers())
