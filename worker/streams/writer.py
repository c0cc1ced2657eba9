"""Writes the answers of all jobs of this process to Redis, many answers in each write."""

import asyncio
import logging
from collections.abc import Iterable
from contextvars import Context
from itertools import groupby
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from worker.aio.redis_retry import is_transient, safe_message
from worker.foreign_json import member
from worker.streams.answer import AnswerStream

_logger = logging.getLogger(__name__)

MAX_RECORDS = 10_000
"""Roughly how many records a stream keeps. An answer of four minutes has at most 6,000."""
INTERVAL_S = 0.04
"""The shortest time between two writes, in seconds.

It is short enough to look smooth, and long enough for tokens of a fast model to share a record.
"""
CLOSE_TIMEOUT_S = 2.0
"""How long a job waits for its last record to be written, in seconds."""
GIVE_UP_AFTER_S = 60.0
_FIRST_PAUSE_S = 0.1
_MAX_DIGITS = 9
_MAX_PAUSE_S = 2.0
_RENEW_INTERVAL_S = 1.0
_SUPERSEDED = "equal or smaller than the target stream top item"


def stream_name(namespace: str, task_id: str) -> str:
    """Return the name of a job's stream in Redis."""
    return f"{namespace}:stream:{task_id}"


class StreamWriter:
    """Writes the answer streams of this process.

    Tokens gather while a write is in flight. So records grow as Redis gets slower, and no job ever
    waits for a token to be written. Trouble with Redis is logged once and delays only the streams.

    Args:
        redis: A client that decodes responses to text.
        namespace: The prefix of every name in Redis.
        expires_s: How long a stream is kept after its last record, in seconds.
    """

    def __init__(self, redis: Redis, *, namespace: str, expires_s: float) -> None:
        self._redis = redis
        self._namespace = namespace
        self._expires_s = expires_s
        self._waiting: dict[AnswerStream, None] = {}
        self._urgent = asyncio.Event()
        self._next_s = 0.0
        self._pause_s = 0.0
        self._task: asyncio.Task[None] | None = None

    def open(self, task_id: str, *, attempts: int = 0) -> AnswerStream:
        """Open the stream of a run of a job.

        Args:
            task_id: The job's id.
            attempts: How many calls the job had made before this run.
        """
        stream = AnswerStream(
            stream_name(self._namespace, task_id), attempts=attempts, notify=self._notify
        )
        # The writer claims the stream soon, so that runs claim it in the order in which they begin.
        self._notify(stream, urgent=False)
        return stream

    async def close(self) -> None:
        """Write what is left, within two seconds. A second call does nothing."""
        task, self._task = self._task, None
        if task is not None and not task.done():
            self._urgent.set()
            await asyncio.wait([task], timeout=CLOSE_TIMEOUT_S)
            task.cancel()

    def _notify(self, stream: AnswerStream, urgent: bool) -> None:  # noqa: FBT001 - a callback
        self._waiting[stream] = None
        if urgent:
            self._urgent.set()
        if self._task is None or self._task.done():
            # The task gets a context of its own: it does not belong to the job that starts it.
            self._task = asyncio.get_running_loop().create_task(self._run(), context=Context())

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            await self._pace(loop)
            self._urgent.clear()
            batch, self._waiting = list(self._waiting), {}
            self._next_s = loop.time() + INTERVAL_S
            try:
                refused = await self._write(batch)
            except (RedisError, OSError) as exc:
                refused = dict.fromkeys(batch, exc)
            if refused:
                self._on_failure(refused)
            else:
                self._pause_s = 0.0

    async def _pace(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait until the next write is due.

        An urgent write is due at once, unless writes have failed.
        """
        if self._pause_s:
            await asyncio.sleep(self._pause_s)
            return
        wait_s = self._next_s - loop.time()
        if wait_s > 0:
            try:
                async with asyncio.timeout(wait_s):
                    await self._urgent.wait()
            except TimeoutError:
                return

    async def _write(self, batch: list[AnswerStream]) -> dict[AnswerStream, Exception]:
        """Write the records of these streams.

        Returns:
            The streams that Redis rejects for now, with its reason.

        Raises:
            RedisError: It is not known which records were written.
        """
        await self._claim([stream for stream in batch if not stream.is_claimed])
        now_s = asyncio.get_running_loop().time()
        pipe = self._redis.pipeline(transaction=False)
        owners: list[AnswerStream] = []
        for stream in batch:
            records = stream.take()
            for record in records:
                # With an exact length of 1 the same command deletes all earlier records, which are
                # out of date.
                length = (
                    {"maxlen": 1, "approximate": False}
                    if record.clears
                    else {"maxlen": MAX_RECORDS}
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
                stream.renew_at_s = now_s + _RENEW_INTERVAL_S
            owners += [stream] * (len(pipe) - len(owners))
        answers = await pipe.execute(raise_on_error=False)
        return self._account(zip(owners, answers, strict=True))

    async def _claim(self, streams: list[AnswerStream]) -> None:
        """Claim streams after their last records: an earlier run may have left its stream open."""
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
            # If the name belongs to another type of record, the write will fail.
            [(last_id, fields)] = last if isinstance(last, list) and last else [("", None)]
            stream.claim(
                now[0] * 1000 + now[1] // 1000,
                last_id,
                None if fields is None else _attempt_of(fields),
                ended=member(fields, "type") == "end",
            )

    def _account(
        self, answers: Iterable[tuple[AnswerStream, Any]]
    ) -> dict[AnswerStream, Exception]:
        """Process the replies to each stream's records.

        Returns:
            The streams to try again after a pause, with Redis' reason.
        """
        refused: dict[AnswerStream, Exception] = {}
        for stream, pairs in groupby(answers, key=lambda answer: answer[0]):
            replies = [reply for _, reply in pairs]
            match next((reply for reply in replies if isinstance(reply, Exception)), None):
                case None if None in replies:
                    # The stream expired or was deleted, so a record that continues it was dropped.
                    stream.on_lost()
                    self._waiting[stream] = None
                case None:
                    stream.on_written()
                case error if _SUPERSEDED in str(error):
                    self._yield_or_claim(stream)
                case error if is_transient(error):
                    refused[stream] = error
                case error:
                    _give_up(stream, error)
        return refused

    def _yield_or_claim(self, stream: AnswerStream) -> None:
        if stream.on_superseded():
            self._waiting[stream] = None
        else:
            _logger.info(
                "%s belongs to a later run of its job; this run writes no more to it", stream.name
            )
            stream.give_up()

    def _on_failure(self, refused: dict[AnswerStream, Exception]) -> None:
        """Try these streams again after a pause; give up a finished one after a minute."""
        if not self._pause_s:
            reasons = ", ".join({safe_message(error) for error in refused.values()})
            _logger.warning("cannot write streams (%s); the jobs go on", reasons)
        self._pause_s = min(max(self._pause_s * 2, _FIRST_PAUSE_S), _MAX_PAUSE_S)
        now_s = asyncio.get_running_loop().time()
        for stream, error in refused.items():
            stream.on_lost()
            stream.failing_since_s = stream.failing_since_s or now_s
            if stream.closed and now_s - stream.failing_since_s > GIVE_UP_AFTER_S:
                _give_up(stream, error)
            else:
                self._waiting[stream] = None


def _give_up(stream: AnswerStream, error: BaseException) -> None:
    _logger.warning(
        "%s stays incomplete (%s); the job's result is not affected",
        stream.name,
        safe_message(error),
    )
    stream.give_up()


def _attempt_of(last: dict[str, str]) -> int:
    text = last.get("attempt", "")
    is_number = text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
    return int(text) if is_number else 0
