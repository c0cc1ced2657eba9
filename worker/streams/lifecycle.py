"""What a job's stream says of its end, whichever end that is."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from celery.exceptions import Ignore, Reject, Retry

from worker.aio.errors import SoftTimeLimit
from worker.errors import Deferred, JobError, TransientError
from worker.jobs.history import History
from worker.streams.answer import AnswerStream
from worker.streams.writer import CLOSING_PATIENCE_S, StreamWriter


@asynccontextmanager
async def answer_stream(writer: StreamWriter, request: Any) -> AsyncIterator[AnswerStream]:
    """Give the stream of a job's turn, and tell how the turn ended if it does not end well.

    What ends a job from outside (a hard time limit, a revoke, the end of its worker) is not told
    here: it looks the same whether the job ends or runs again elsewhere. `worker.hooks.stream_end` tells
    of the former.

    Args:
        writer: Writes it.
        request: The task's request.
    """
    stream = writer.open(str(request.id), attempts=History.of(request.headers).attempts)
    try:
        yield stream
    except Retry as retry:
        why = (
            retry.exc.reason
            if isinstance(retry.exc, Deferred | TransientError)
            else "the job runs again"
        )
        waits = getattr(request, "waits", None) or {}
        await _close(stream, "wait", reason=why, seconds=f"{float(retry.when or 0):.3f}", **waits)
        raise
    except (Reject, Ignore):  # this message comes again, or another worker has it: the job goes on
        raise
    except JobError as error:
        await _fail(stream, type(error).__name__, str(error))
        raise
    except SoftTimeLimit:
        await _fail(stream, "SoftTimeLimitExceeded", "the job ran longer than the time limit")
        raise
    except Exception as error:
        # Its words are not ours, and may quote anything.
        await _fail(
            stream, type(error).__name__, "an unexpected error; the worker's log tells more"
        )
        raise


async def tell_done(stream: AnswerStream, result: dict[str, Any]) -> None:
    """Tell that the answer is complete."""
    await _close(
        stream,
        "end",
        status="done",
        finish_reason=str(result.get("finish_reason") or ""),
        model=str(result.get("model") or ""),
        usage=json.dumps(result.get("usage") or {}),
        **{name: str(result[name]) for name in ("empty_because",) if name in result},
    )


async def _fail(stream: AnswerStream, error: str, reason: str) -> None:
    await _close(stream, "end", status="failed", error=error, reason=reason)


async def _close(stream: AnswerStream, kind: str, /, **fields: str) -> None:
    """Write the last record, and see it written before the result is.

    A reader of both finds them in order.
    """
    stream.close(kind, **fields)
    try:
        async with asyncio.timeout(CLOSING_PATIENCE_S):
            await stream.over.wait()
    except TimeoutError:
        return  # the writer goes on trying
