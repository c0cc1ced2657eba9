"""Records the dead letters of failed jobs, of requests that never ran, and of unusable messages.

While Redis is down or full, a job waits up to a minute for its dead letter to be written, and the
consumer waits a few seconds. After that, the message goes back to its queue, so that the job ends
again when a dead letter can be written. No other error is raised to the caller.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from celery.exceptions import Reject
from redis.exceptions import RedisError

from worker.aio import lifespan
from worker.aio.redis_retry import RECORD, retried
from worker.aio.time_limits import HeldTimeLimits
from worker.deadletters.capture import capture_job, capture_message, delivery_of
from worker.deadletters.dead_letter import DeadLetter, Message
from worker.deadletters.store import DeadLetters
from worker.redis.later import send_later

_logger = logging.getLogger(__name__)

TOO_LARGE: Final = "its arguments were too large to be kept"
NOT_JSON: Final = "its arguments cannot be kept"

_CONSUMER_TIMEOUT_S = 3.0
_LAST_TRY_S: Final = 1.0
"""How long the last try may take, so that the log shows the error of Redis, not only a timeout."""
_NOT_RECORDED = ("celery.", "tasks.admin.")


def is_recorded(task: str) -> bool:
    """Whether a task's failures are recorded: not for `tasks.admin` and Celery's own tasks."""
    return not task.startswith(_NOT_RECORDED)


class Recorder:
    """Records dead letters in a store.

    Args:
        store: Returns the store; called on the pool's event loop.
    """

    def __init__(self, store: Callable[[], DeadLetters]) -> None:
        self._store = store

    async def record_job(self, context: Any, task: str, exc: BaseException) -> None:
        """Record a job that failed, on the pool's loop; see `capture_job`.

        Raises:
            celery.exceptions.Reject: Redis takes no dead letter, so the message goes back to its
                queue.
        """
        try:
            letter, message = capture_job(context, task, exc)
        except Exception as trouble:  # noqa: BLE001 - see above
            _log_loss(trouble, task)
            return
        if not await self.record(letter, message):
            raise Reject("its dead letter cannot be written yet", requeue=True)

    def record_request(self, context: Any, task: str, exc: BaseException) -> bool:
        """Record a job that ended outside its task, on the consumer's thread; see `capture_job`.

        Returns:
            False if Redis has not taken the dead letter yet, so that the broker must deliver the
            message again.
        """
        try:
            return self.record_from_consumer(*capture_job(context, task, exc))
        except Exception as trouble:  # noqa: BLE001 - see above
            _log_loss(trouble, task)
            return True

    def record_message(self, message: Any, *, reason: str, runnable: bool = False) -> None:
        """Record a message that cannot become a job, on the consumer's thread.

        See `capture_message`.
        """
        try:
            self.record_from_consumer(*capture_message(message, reason=reason, runnable=runnable))
        except Exception as trouble:  # noqa: BLE001 - see above
            _log_loss(trouble, reason)

    async def record(self, letter: DeadLetter, message: Message | None = None) -> bool:
        """Write a dead letter, on the pool's loop. If this fails, the log says why.

        Time limits are suspended meanwhile. Otherwise one might end the job, and the dead letter
        would name the time limit instead of the failure.

        Args:
            letter: The dead letter.
            message: The message for a replay.

        Returns:
            False if Redis did not take the dead letter for a minute, and may take it later.
        """
        try:
            with HeldTimeLimits():
                async with asyncio.timeout(RECORD.within_s + _LAST_TRY_S):
                    store = self._store()
                    letter, text = _fitted(letter, message, store.limits.message_bytes)
                    await retried(lambda: store.put(letter, text), RECORD)
        except Exception as trouble:  # noqa: BLE001 - see above
            _log_loss(
                trouble, f"{letter.task}[{letter.id}] ended as {letter.kind}: {letter.reason}"
            )
            return not isinstance(trouble, TimeoutError | RedisError)
        return True

    def record_from_consumer(self, letter: DeadLetter, message: Message | None = None) -> bool:
        """Write a dead letter from the consumer's thread, before the message is acknowledged.

        Returns:
            False if it was not written within a few seconds. It may still be written later;
            otherwise the log says why not.

        Raises:
            RuntimeError: No pool is running.
        """
        try:
            return lifespan.submit(self.record(letter, message)).result(_CONSUMER_TIMEOUT_S)
        except TimeoutError:
            return False

    async def earlier_failure(self, context: Any) -> str | None:
        """Return the reason of an earlier failure of this message's job.

        There is one if a worker died after the failure and before the acknowledgement. The dead
        letter is written last: before it, the result is stored and the errbacks are published,
        unless the result store rejected them.

        Args:
            context: Celery's context of the request.

        Returns:
            The dead letter's reason; None if the job has not failed, or if that is not known.
        """
        delivery = delivery_of(context)
        try:
            letter, _ = await self._store().get(context.id)
        except KeyError:
            return None
        except RedisError as trouble:
            _logger.debug(
                "cannot look up whether %s has ended, so it runs: %s",
                context.id,
                type(trouble).__name__,
            )
            return None
        return letter.reason if delivery and letter.delivery == delivery else None

    async def remove(self, job: str) -> None:
        """Delete the dead letter, if any, of a job that has succeeded now.

        Jobs that end at the same time share a round trip. If Redis is away, this is repeated later.
        """
        try:
            await self._remove(job)
        except RedisError as trouble:
            if send_later(lambda: self._remove(job), trouble):
                return
            _logger.warning(
                "%s succeeded, but its dead letter may still exist (%s); drop it by hand",
                job,
                type(trouble).__name__,
            )

    async def _remove(self, job: str) -> None:
        store = self._store()
        if await store.has(job):
            with suppress(KeyError):
                letter, _ = await store.get(job)
                await store.delete([letter], by="", event="")


def _log_loss(trouble: Exception, words: str) -> None:
    # The log line has no traceback, because a traceback would show the arguments.
    _logger.error("cannot keep a dead letter (%s): %s", type(trouble).__name__, words)


def _fitted(letter: DeadLetter, message: Message | None, most: int) -> tuple[DeadLetter, str]:
    """Return the dead letter and its message's text; no text if it is too large or not JSON."""
    if message is None:
        return _with_note(letter, NOT_JSON), ""
    # Estimate the size before writing the text: 10 MB of JSON would block the event loop.
    if weight(message.args, message.kwargs, message.options, message.raw, most=most) > most:
        return _with_note(letter, TOO_LARGE), ""
    try:
        text = message.text()
    except (TypeError, ValueError, RecursionError):
        return _with_note(letter, NOT_JSON), ""
    return (letter, text) if len(text) <= most else (_with_note(letter, TOO_LARGE), "")


def _with_note(letter: DeadLetter, note: str) -> DeadLetter:
    return letter if letter.note else replace(letter, note=note)


def weight(*values: Any, most: int) -> int:
    """Estimate how many characters values take in JSON; stops counting beyond `most`."""
    total, left = 0, list(values)
    while left and total <= most:
        value = left.pop()
        total += 2
        if isinstance(value, str):
            total += len(value)
        elif isinstance(value, Mapping):
            left += value.keys()
            left += value.values()
        elif isinstance(value, list | tuple):
            left += value
        else:
            total += 4
    return total
