"""Writes letters: from a job that failed, from a request that never ran, from a message that nobody can read.

Nothing here raises, and nothing waits for long: a job's own result and the worker are worth more than its letter.
"""

import asyncio
import base64
import logging
import re
import traceback
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final
from weakref import WeakKeyDictionary

from billiard.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from redis.asyncio import Redis

from config.celery import DEFERRED, QUEUE_OF
from worker.aio import lifespan
from worker.deadletters.letter import DOUBT, Letter, Message, sentence, shown
from worker.deadletters.store import DeadLetters
from worker.errors import DeadlineExceeded, JobError, OutcomeUnknown, Poisoned
from worker.history import DEATHS, HEADER, History
from worker.logs import redactor
from worker.runtime import Runtime
from worker.trail import latest, of_this_turn

_logger = logging.getLogger(__name__)

UNRUNNABLE: Final = "the message itself cannot be run"
TOO_LARGE: Final = "its arguments were too large to be kept"
NOT_JSON: Final = "its arguments cannot be kept"

_KEPT_OPTIONS = (
    "root_id", "parent_id", "group_id", "group_index", "shadow", "chord", "chain", "link", "link_error",
    "soft_time_limit", "time_limit", "reply_to", "replaced_task_nesting",
)  # fmt: skip
_OURS = (HEADER, DEATHS, DOUBT, "redelivered")
_WITHIN_S = 5.0
_HOLD_UP_S = 3.0
_RAW_BYTES = 65_536
_LONG_AGO_MS = 1
_NOT_KEPT = ("celery.", "tasks.admin.")
_ID_RE = re.compile(r"[!-~]{1,200}")
_SERVICE_OF = {f"tasks.{queue}.": service for service, queue in QUEUE_OF.items()}

_stores: "WeakKeyDictionary[Redis, DeadLetters]" = WeakKeyDictionary()


def is_kept(task: str) -> bool:
    """Whether a task's failures are kept: all but those of the operators' own tasks and Celery's."""
    return not task.startswith(_NOT_KEPT)


def store_of(runtime: Runtime) -> DeadLetters:
    """The runtime's dead letters."""
    found = _stores.get(runtime.redis)
    if found is None:
        found = _stores[runtime.redis] = DeadLetters.of(runtime.redis, runtime.settings)
    return found


async def keep_job(context: Any, task: str, exc: BaseException) -> None:
    """Keep the letter of a job that failed, on the pool's loop; see `of_job`."""
    try:
        found = of_job(context, task, exc)
    except Exception as trouble:  # noqa: BLE001 - see above
        _not_kept(trouble, task)
        return
    await keep(*found)


def keep_request(context: Any, task: str, exc: BaseException) -> None:
    """Keep the letter of a job that no task hears of, on the consumer's thread; see `of_job`."""
    try:
        keep_from_consumer(*of_job(context, task, exc))
    except Exception as trouble:  # noqa: BLE001 - see above
        _not_kept(trouble, task)


def keep_message(message: Any, *, reason: str, runnable: bool = False) -> None:
    """Keep the letter of a message that became no job, on the consumer's thread; see `of_message`."""
    try:
        keep_from_consumer(*of_message(message, reason=reason, runnable=runnable))
    except Exception as trouble:  # noqa: BLE001 - see above
        _not_kept(trouble, reason)


async def keep(letter: Letter, message: Message | None = None) -> None:
    """Keep a letter, on the pool's loop. Where Redis does not take it, the log has the reason.

    Args:
        letter: What is shown.
        message: What a replay needs.
    """
    try:
        async with asyncio.timeout(_WITHIN_S):
            store = store_of(Runtime.current())
            letter, text = _fitted(letter, message, store.limits.message_bytes)
            await store.put(letter, text)
    except Exception as trouble:  # noqa: BLE001 - see above
        _not_kept(trouble, f"{letter.task}[{letter.id}] ended as {letter.kind}: {letter.reason}")


def keep_from_consumer(letter: Letter, message: Message | None = None) -> None:
    """Keep a letter from the consumer's thread, which waits a moment: it shall be there before the message goes.

    Raises:
        RuntimeError: No pool is running.
    """
    with suppress(TimeoutError):  # it is written all the same, or the log tells
        lifespan.submit(keep(letter, message)).result(_HOLD_UP_S)


def _not_kept(trouble: Exception, what: str) -> None:
    # Without a trace: that would show the arguments.
    _logger.error("a dead letter could not be kept (%s): %s", type(trouble).__name__, what)


def of_job(context: Any, task: str, exc: BaseException) -> tuple[Letter, Message | None]:
    """The letter of a job that failed.

    Args:
        context: Celery's context of the request.
        task: The task's name.
        exc: What it failed of.
    """
    history = History.of(context.headers)
    kind = kind_of(exc)
    trail = latest((*history.trail, *of_this_turn()))
    unclear = kind in {"unknown", "timeout", "poison"} or not isinstance(exc, JobError)
    doubtful = unclear or any(attempt.in_doubt for attempt in trail)
    letter = Letter(
        id=_id_of(context.id),
        task=shown(task),
        queue=queue_of(context.delivery_info),
        service=service_of(task),
        kind=kind,
        reason=reason_of(exc),
        since_ms=history.since_ms,
        faults=context.retries if isinstance(context.retries, int) else 0,
        deferrals=history.deferrals,
        calls=history.attempts + len(of_this_turn()),
        trail=tuple(attempt.as_json() for attempt in trail),
        doubt_ms=_earlier_doubt(context.headers) or (_first_tried_ms(context, history) if doubtful else 0),
        worker=shown(context.hostname or ""),
    )
    return letter, _message_of(context)


def of_message(message: Any, *, reason: str, runnable: bool = False) -> tuple[Letter, Message | None]:
    """The letter of a message that became no job.

    Args:
        message: kombu's message.
        reason: Why it cannot be run.
        runnable: It is well formed, and only unknown here: another version of the workers may run it.
    """
    headers = message.headers if isinstance(message.headers, Mapping) else {}
    kept = _body_as_message(message, headers) if runnable else None
    letter = Letter(
        id=_id_of(headers.get("id")),
        task=shown(headers.get("task") or "(none)"),
        queue=queue_of(message.delivery_info),
        service=service_of(str(headers.get("task"))),
        kind="poison",
        reason=sentence(reason),
        note="" if kept else UNRUNNABLE,
    )
    return letter, kept or Message(raw=_raw(message.body))


def kind_of(exc: BaseException) -> str:
    """How a job ended."""
    if isinstance(exc, OutcomeUnknown):
        return "unknown"
    if isinstance(exc, DeadlineExceeded):
        return "expired"
    if isinstance(exc, Poisoned):
        return "poison"
    if isinstance(exc, TimeLimitExceeded | SoftTimeLimitExceeded):
        return "timeout"
    return "failed"


def reason_of(exc: BaseException) -> str:
    """Why a job ended, without what it holds: only the sentences of our own errors are known to quote nothing."""
    name = type(exc).__name__
    if isinstance(exc, JobError):
        return sentence(redactor.redact(f"{name}: {exc}"))
    if isinstance(exc, TimeLimitExceeded | SoftTimeLimitExceeded):
        return f"{name}: it ran longer than it may"
    frames = list(traceback.walk_tb(exc.__traceback__))
    if not frames:
        return sentence(name)
    frame, line = frames[-1]
    return sentence(f"{name} in {'/'.join(frame.f_code.co_filename.rsplit('/', 2)[-2:])}, line {line}")


def service_of(task: str) -> str:
    """Whose task it is."""
    return next((service for start, service in _SERVICE_OF.items() if task.startswith(start)), "other")


def queue_of(delivery_info: Any) -> str:
    """The queue that people know, of a message's delivery."""
    found = delivery_info.get("routing_key") if isinstance(delivery_info, Mapping) else None
    return shown(found or "").removesuffix(DEFERRED)


def _id_of(found: Any) -> str:
    return found if isinstance(found, str) and _ID_RE.fullmatch(found) else f"no-id-{uuid.uuid4()}"


def _first_tried_ms(context: Any, history: History) -> int:
    """When a job may have been carried out at the earliest; long ago where nobody knows, as a worker died with it."""
    headers = context.headers if isinstance(context.headers, Mapping) else {}
    delivery = context.delivery_info if isinstance(context.delivery_info, Mapping) else {}
    came_again = bool(delivery.get("redelivered") or headers.get(DEATHS))
    return _LONG_AGO_MS if came_again and HEADER not in headers else history.since_ms


def _earlier_doubt(headers: Any) -> int:
    found = headers.get(DOUBT) if isinstance(headers, Mapping) else None
    return found if type(found) is int and found > 0 else 0


def _message_of(context: Any) -> Message | None:
    try:
        told = context.as_execution_options()
    except Exception:  # noqa: BLE001 - whatever a stranger wrote into the headers
        return None
    options = {name: told[name] for name in _KEPT_OPTIONS if told.get(name)}
    headers = {name: value for name, value in (told.get("headers") or {}).items() if name not in _OURS}
    if headers:
        options["headers"] = headers
    priority = (context.delivery_info or {}).get("priority")
    if priority:
        options["priority"] = priority
    return Message(list(context.args or ()), dict(context.kwargs or {}), options)


def _body_as_message(message: Any, headers: Mapping[str, Any]) -> Message | None:
    if not _ID_RE.fullmatch(str(headers.get("id"))) or len(message.body or "") > _RAW_BYTES * 64:
        return None
    try:
        args, kwargs, embed = message.payload
    except Exception:  # noqa: BLE001 - it is kept as it is, then
        return None
    if not (isinstance(args, list) and isinstance(kwargs, dict) and isinstance(embed, dict | None)):
        return None
    names = {"callbacks": "link", "errbacks": "link_error", "chain": "chain", "chord": "chord"}
    options = {ours: embed[theirs] for theirs, ours in names.items() if embed and embed.get(theirs)}
    return Message(args, kwargs, options)


def _raw(body: Any) -> str:
    if isinstance(body, memoryview | bytearray):
        body = bytes(body)
    if not isinstance(body, bytes):
        return str(body)[:_RAW_BYTES]
    part = body[:_RAW_BYTES]
    try:
        return part.decode()
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(part).decode()}"


def _fitted(letter: Letter, message: Message | None, most: int) -> tuple[Letter, str]:
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


def _noted(letter: Letter, note: str) -> Letter:
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
