"""Writes letters.

From a job that failed, from a request that never ran, from a message that nobody can read.

While Redis is away or full a job waits for its letter for a minute, the consumer for a moment; then
the message goes back, so that the job ends once more when a letter can be written. Nothing else
here raises.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final
from weakref import WeakKeyDictionary

from celery.exceptions import Reject
from redis.asyncio import Redis
from redis.exceptions import RedisError

from worker.aio import lifespan
from worker.aio.redis_retry import RECORD, retried
from worker.deadletters.capture import delivery_of, of_job, of_message
from worker.deadletters.dead_letter import DeadLetter, Message
from worker.deadletters.store import DeadLetters
from worker.redis.lookup import BatchedLookup
from worker.runtime import Runtime

_logger = logging.getLogger(__name__)

TOO_LARGE: Final = "its arguments were too large to be kept"
NOT_JSON: Final = "its arguments cannot be kept"

_HOLD_UP_S = 3.0
_NOT_KEPT = ("celery.", "tasks.admin.")

_stores: "WeakKeyDictionary[Redis, DeadLetters]" = WeakKeyDictionary()
_lookups: "WeakKeyDictionary[DeadLetters, BatchedLookup]" = WeakKeyDictionary()


def is_kept(task: str) -> bool:
    """Whether a task's failures are kept.

    All but those of the operators' own tasks and Celery's.
    """
    return not task.startswith(_NOT_KEPT)


def store_of(runtime: Runtime) -> DeadLetters:
    """The runtime's dead letters."""
    found = _stores.get(runtime.redis)
    if found is None:
        found = _stores[runtime.redis] = DeadLetters.of(runtime.redis, runtime.settings)
    return found


async def keep_job(context: Any, task: str, exc: BaseException) -> None:
    """Keep the letter of a job that failed, on the pool's loop; see `of_job`.

    Raises:
        celery.exceptions.Reject: Redis takes no letter: the message goes back.
    """
    try:
        found = of_job(context, task, exc)
    except Exception as trouble:  # noqa: BLE001 - see above
        _not_kept(trouble, task)
        return
    if not await keep(*found):
        raise Reject("its letter cannot be written yet", requeue=True)


def keep_request(context: Any, task: str, exc: BaseException) -> bool:
    """Keep the letter of a job that no task hears of, on the consumer's thread; see `of_job`.

    Returns:
        False where Redis has not taken it yet: the message must come again.
    """
    try:
        return keep_from_consumer(*of_job(context, task, exc))
    except Exception as trouble:  # noqa: BLE001 - see above
        _not_kept(trouble, task)
        return True


def keep_message(message: Any, *, reason: str, runnable: bool = False) -> None:
    """Keep the letter of a message that became no job, on the consumer's thread.

    See `of_message`.
    """
    try:
        keep_from_consumer(*of_message(message, reason=reason, runnable=runnable))
    except Exception as trouble:  # noqa: BLE001 - see above
        _not_kept(trouble, reason)


async def keep(letter: DeadLetter, message: Message | None = None) -> bool:
    """Keep a letter, on the pool's loop. Where it is not kept, the log has the reason.

    Args:
        letter: What is shown.
        message: What a replay needs.

    Returns:
        False where Redis did not take it for a minute, and may later.
    """
    try:
        async with asyncio.timeout(RECORD.within_s):
            store = store_of(Runtime.current())
            letter, text = _fitted(letter, message, store.limits.message_bytes)
            await retried(lambda: store.put(letter, text), RECORD)
    except Exception as trouble:  # noqa: BLE001 - see above
        _not_kept(trouble, f"{letter.task}[{letter.id}] ended as {letter.kind}: {letter.reason}")
        return not isinstance(trouble, TimeoutError | RedisError)
    return True


async def ended_as(context: Any) -> str | None:
    """Why this very message's job has failed already, where only its acknowledgement was lost with its worker.

    The letter is what is written last of a failure: by then the result is stored and the errbacks
    are on their way, unless the result store refused them.

    Args:
        context: Celery's context of the request.

    Returns:
        The letter's reason; None where the job has not failed, or nobody knows.
    """
    delivery = delivery_of(context)
    try:
        letter, _ = await store_of(Runtime.current()).get(context.id)
    except KeyError:
        return None
    except RedisError as trouble:
        _logger.debug(
            "whether %s has ended cannot be asked (%s): it runs", context.id, type(trouble).__name__
        )
        return None
    return letter.reason if delivery and letter.delivery == delivery else None


async def take_out(job: str) -> None:
    """Take out the letter of a job that has succeeded after all, if there is one.

    Jobs of one moment look together.
    """
    try:
        store = store_of(Runtime.current())
        roll = _lookups.get(store)
        if roll is None:
            roll = _lookups[store] = BatchedLookup(store)
        if not await roll.has(job):
            return
        letter, _ = await store.get(job)
        await store.forget([letter], by="", event="")
    except KeyError:
        pass
    except RedisError as trouble:
        _logger.warning(
            "a dead letter of %s, which succeeded, may have stayed (%s)",
            job,
            type(trouble).__name__,
        )


def keep_from_consumer(letter: DeadLetter, message: Message | None = None) -> bool:
    """Keep a letter from the consumer's thread, which waits a moment.

    It shall be there before the message goes.

    Returns:
        False where it is not there yet. It may still be written, or the log tells.

    Raises:
        RuntimeError: No pool is running.
    """
    try:
        return lifespan.submit(keep(letter, message)).result(_HOLD_UP_S)
    except TimeoutError:
        return False


def _not_kept(trouble: Exception, what: str) -> None:
    # Without a trace: that would show the arguments.
    _logger.error("a dead letter could not be kept (%s): %s", type(trouble).__name__, what)


def _fitted(letter: DeadLetter, message: Message | None, most: int) -> tuple[DeadLetter, str]:
    """The letter with its message's text, or without where that is too large or no JSON."""
    if message is None:
        return _noted(letter, NOT_JSON), ""
    # Looked at before it is written: ten megabytes of JSON hold up the event loop.
    if weight(message.args, message.kwargs, message.options, message.raw, most=most) > most:
        return _noted(letter, TOO_LARGE), ""
    try:
        text = message.text()
    except (TypeError, ValueError, RecursionError):
        return _noted(letter, NOT_JSON), ""
    return (letter, text) if len(text) <= most else (_noted(letter, TOO_LARGE), "")


def _noted(letter: DeadLetter, note: str) -> DeadLetter:
    return letter if letter.note else replace(letter, note=note)


def weight(*values: Any, most: int) -> int:
    """About how many characters values take in JSON; stops counting beyond `most`."""
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
