"""Opens the stream of a run, and closes it with a record of how the run ended."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from celery.exceptions import Ignore, Reject, Retry

from worker.aio.errors import SoftTimeLimit
from worker.errors import Deferred, JobError, TransientError
from worker.foreign_json import as_object
from worker.jobs.history import History
from worker.streams.answer import AnswerStream
from worker.streams.writer import CLOSE_TIMEOUT_S, StreamWriter


@asynccontextmanager
async def answer_stream(writer: StreamWriter, request: Any) -> AsyncIterator[AnswerStream]:
    """Open the stream of a run of a job, and close it if the run does not succeed.

    A hard time limit, a revoke or the end of the worker does not close the stream here, because the
    job may run again elsewhere. If the job has ended, `worker.hooks.stream_end` closes the stream.

    Args:
        writer: The writer of the stream.
        request: The task's request.
    """
    stream = writer.open(str(request.id), attempts=History.of(request.headers).attempts)
    try:
        yield stream
    except Retry as retry:
        await _close(stream, "wait", **_wait_of(retry, request))
        raise
    except (Reject, Ignore):  # the message comes again, or another worker has it: the job goes on
        raise
    except JobError as error:
        await _fail(stream, type(error).__name__, str(error))
        raise
    except SoftTimeLimit:
        await _fail(stream, "SoftTimeLimitExceeded", "the job ran longer than the time limit")
        raise
    except Exception as error:
        # The message of an unknown error may quote anything.
        await _fail(stream, type(error).__name__, "an unexpected error; see the worker's log")
        raise


def _wait_of(retry: Retry, request: Any) -> dict[str, str]:
    known = isinstance(retry.exc, Deferred | TransientError)
    waits = as_object(getattr(request, "waits", None))
    return {
        "reason": retry.exc.reason if known else "the job runs again",
        "seconds": f"{float(retry.when or 0):.3f}",
        **{name: value for name, value in waits.items() if value is not None},
    }


async def finish_stream(stream: AnswerStream, result: dict[str, Any]) -> None:
    """Close a stream whose answer is complete."""
    await _close(
        stream,
        "end",
        status="done",
        finish_reason=str(result.get("finish_reason") or ""),
        model=str(result.get("model") or ""),
        usage=json.dumps(as_object(result.get("usage"))),
        **{name: str(result[name]) for name in ("empty_because",) if name in result},
    )


async def _fail(stream: AnswerStream, error: str, reason: str) -> None:
    await _close(stream, "end", status="failed", error=error, reason=reason)


async def _close(stream: AnswerStream, kind: str, /, **fields: str) -> None:
    """Write the last record and wait for it, so that it is readable before the job's result is."""
    stream.close(kind, **fields)
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await stream.finished.wait()
    except TimeoutError:
        return  # the writer goes on trying
