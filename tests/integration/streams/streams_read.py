"""What the tests of streams share: reading one, waiting for it."""

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
    """The records of a job's stream."""
    return [fields for _, fields in await redis.xrange(stream_name("kw", task_id))]


async def over(stream: AnswerStream) -> None:
    """Wait until a stream has said its last word."""
    async with asyncio.timeout(30):
        await stream.finished.wait()


async def until(check: Callable[[], Any]) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(30):
        while not check():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.002)


def texts(records: list[dict[str, str]]) -> str:
    """All pieces of an answer."""
    return "".join(record.get("text", "") for record in records)


async def idle(*writers: StreamWriter) -> None:
    """Wait until writers have nothing left to write."""
    await until(lambda: all(writer._task is None or writer._task.done() for writer in writers))


def request(attempts: int = 0) -> Any:
    """What Celery knows of a job."""
    return SimpleNamespace(id="t1", headers=History(since_ms=1, attempts=attempts).headers())
