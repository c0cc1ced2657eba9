"""Writes the answers of all jobs of this process to Redis: many at once, one write at a time."""

import asyncio
import logging
from collections.abc import Iterable
from contextvars import Context
from itertools import groupby
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from worker.aio.redis_retry import passes_by_itself, words_of
from worker.streams.answer import AnswerStream

_logger = logging.getLogger(__name__)

MOST_RECORDS = 10_000
"""About how many records a stream keeps. An answer of four minutes has at most 6,000."""
INTERVAL_S = 0.04
"""The shortest time between two writes, in seconds.

Smooth to the eye, and a fast model's tokens share a record.
"""
CLOSING_PATIENCE_S = 2.0
"""How long a job waits for its last record to be written, in seconds: its result is worth more."""
TROUBLE_PATIENCE_S = 60.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_RENEW_S = 1.0
_LATE = "equal or smaller than the target stream top item"


def stream_name(namespace: str, task_id: str) -> str:
    """The name of a job's stream."""
    return f"{namespace}:stream:{task_id}"


class StreamWriter:
    """Writes what the answer streams of this process have to tell.

    While a write is on its way, tokens gather; so the slower Redis is, the larger the records, and
    no job ever waits for a token to be written. Trouble with Redis is logged once and delays only
    the streams.

    Args:
        redis: Where the streams go; a client that decodes.
        namespace: What stands before every name.
        expires_s: How long a stream is kept after its last record, in seconds.
    """

    def __init__(self, redis: Redis, *, namespace: str, expires_s: float) -> None:
        self._redis = redis
        self._namespace = namespace
        self._expires_s = expires_s
        self._waiting: dict[AnswerStream, None] = {}
        self._hurry = asyncio.Event()
        self._next_s = 0.0
        self._pause_s = 0.0
        self._task: asyncio.Task[None] | None = None

    def open(self, task_id: str, *, attempts: int = 0) -> AnswerStream:
        """Give the stream of a job's turn.

        Args:
            task_id: The job's id.
            attempts: Calls that the job had made before this turn.
        """
        stream = AnswerStream(
            stream_name(self._namespace, task_id), attempts=attempts, touch=self._touch
        )
        self._touch(
            stream, urgent=False
        )  # looked at now, so that turns claim it in the order in which they begin
        return stream

    async def close(self) -> None:
        """Write what is left, for a short while at most. A second call does nothing."""
        task, self._task = self._task, None
        if task is not None and not task.done():
            self._hurry.set()
            await asyncio.wait([task], timeout=CLOSING_PATIENCE_S)
            task.cancel()

    def _touch(self, stream: AnswerStream, urgent: bool) -> None:  # noqa: FBT001 - called by position, as a callback
        self._waiting[stream] = None
        if urgent:
            self._hurry.set()
        if self._task is None or self._task.done():
            # A context of its own: it is no part of the job that happens to need it first.
            self._task = asyncio.get_running_loop().create_task(self._run(), context=Context())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            await self._pace(loop)
            self._hurry.clear()
            batch, self._waiting = list(self._waiting), {}
            self._next_s = loop.time() + INTERVAL_S
            try:
                refused = await self._write(batch)
            except (RedisError, OSError) as exc:
                refused = dict.fromkeys(batch, exc)
            if refused:
                self._on_trouble(refused)
            else:
                self._pause_s = 0.0

    async def _pace(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait until the next write is due; what is urgent waits only where Redis is in trouble."""
        if self._pause_s:
            await asyncio.sleep(self._pause_s)
            return
        wait_s = self._next_s - loop.time()
        if wait_s > 0:
            try:
                async with asyncio.timeout(wait_s):
                    await self._hurry.wait()
            except TimeoutError:
                return

    async def _write(self, batch: list[AnswerStream]) -> dict[AnswerStream, Exception]:
        """Write what these streams have to tell.

        Returns those whose Redis refuses for now, with its reason.

        Raises:
            RedisError: Nothing is known of what was written.
        """
        await self._look([stream for stream in batch if not stream.looked])
        now_s = asyncio.get_running_loop().time()
        pipe = self._redis.pipeline(transaction=False)
        owners: list[AnswerStream] = []
        for stream in batch:
            records = stream.take()
            for record in records:
                # An exact length of 1 leaves only this record: what is out of date goes in the same
                # step.
                length = (
                    {"maxlen": 1, "approximate": False}
                    if record.clears
                    else {"maxlen": MOST_RECORDS}
                )
                pipe.xadd(
                    stream.name,
                    record.fields,  # type: ignore[arg-type]
                    id=record.id,
                    nomkstream=record.continues,
                    **length,  # type: ignore[arg-type]
                )
            if records and (stream.closed or now_s >= stream.renew_at_s):
                pipe.pexpire(stream.name, round(self._expires_s * 1000))
                stream.renew_at_s = now_s + _RENEW_S
            owners += [stream] * (len(pipe) - len(owners))
        answers = await pipe.execute(raise_on_error=False)
        return self._account(zip(owners, answers, strict=True))

    async def _look(self, streams: list[AnswerStream]) -> None:
        """See what earlier turns left: a worker that died told nobody."""
        if not streams:
            return
        pipe = self._redis.pipeline(transaction=False)
        pipe.time()
        for stream in streams:
            pipe.xrevrange(stream.name, count=1)
        now, *lasts = await pipe.execute(raise_on_error=False)
        if isinstance(now, Exception):
            raise now
        for stream, last in zip(streams, lasts, strict=True):
            # Where something else has the name, the write will say so.
            [(last_id, fields)] = last if isinstance(last, list) and last else [("", None)]
            stream.found(
                now[0] * 1000 + now[1] // 1000,
                last_id,
                None if fields is None else _attempt_of(fields),
                ended=(fields or {}).get("type") == "end",
            )

    def _account(
        self, answers: Iterable[tuple[AnswerStream, Any]]
    ) -> dict[AnswerStream, Exception]:
        """See what became of each stream's records.

        Returns the streams to be tried again in a while.
        """
        refused: dict[AnswerStream, Exception] = {}
        for stream, told in groupby(answers, key=lambda answer: answer[0]):
            replies = [reply for _, reply in told]
            error = next((reply for reply in replies if isinstance(reply, Exception)), None)
            if error is not None and _LATE in str(error):
                self._yield_or_claim(stream)
            elif error is not None and passes_by_itself(error):
                refused[stream] = error
            elif error is not None:
                _give_up(stream, error)
            elif (
                None in replies
            ):  # the stream expired or was deleted, and what was to follow was not written
                stream.on_lost()
                self._waiting[stream] = None
            else:
                stream.on_written()
        return refused

    def _yield_or_claim(self, stream: AnswerStream) -> None:
        if stream.on_late():
            self._waiting[stream] = None
        else:
            _logger.info("%s is left to a later turn of its job", stream.name)
            stream.give_up()

    def _on_trouble(self, refused: dict[AnswerStream, Exception]) -> None:
        """Try these again in a while, for as long as it is worth it."""
        if not self._pause_s:
            reasons = ", ".join({words_of(error) for error in refused.values()})
            _logger.warning("streams cannot be written (%s); the jobs go on", reasons)
        self._pause_s = min(max(self._pause_s * 2, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        now_s = asyncio.get_running_loop().time()
        for stream, error in refused.items():
            stream.on_lost()
            stream.troubled_since_s = stream.troubled_since_s or now_s
            if stream.closed and now_s - stream.troubled_since_s > TROUBLE_PATIENCE_S:
                _give_up(stream, error)
            else:
                self._waiting[stream] = None


def _give_up(stream: AnswerStream, error: BaseException) -> None:
    _logger.warning("%s is left incomplete (%s)", stream.name, type(error).__name__)
    stream.give_up()


def _attempt_of(last: dict[str, str]) -> int:
    told = last.get("attempt", "")
    return int(told) if told.isascii() and told.isdigit() and len(told) < 10 else 0  # noqa: PLR2004 - no int bomb
