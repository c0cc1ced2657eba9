"""What is told of a job that ended without success, and of a message that became no job."""

import base64
import re
import traceback
import uuid
from collections.abc import Mapping
from typing import Any, Final

from billiard.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError

from config.celery import DEFERRED, QUEUE_OF
from worker.attempts import latest, of_this_turn
from worker.deadletters.dead_letter import DeadLetter, Message, sentence, shown
from worker.errors import DeadlineExceeded, JobError, OutcomeUnknown, Poisoned
from worker.jobs.history import ALONE, DEATHS, DIED_S, DOUBT, HEADER, History, came_again
from worker.logs import redactor

UNRUNNABLE: Final = "the message itself cannot be run"

_KEPT_OPTIONS = (
    "root_id", "parent_id", "group_id", "group_index", "shadow", "chord", "chain", "link",
    "link_error",
    "soft_time_limit", "time_limit", "reply_to", "replaced_task_nesting",
)  # fmt: skip
_OURS = (HEADER, DEATHS, ALONE, DIED_S, DOUBT, "redelivered")
_RAW_BYTES = 65_536
_LONGEST_RUNNABLE = 4_000_000
_LONG_AGO_MS = 1
_ID_RE = re.compile(r"[!-~]{1,200}")
_SERVICE_OF = {f"tasks.{queue}.": service for service, queue in QUEUE_OF.items()}


def of_job(context: Any, task: str, exc: BaseException) -> tuple[DeadLetter, Message | None]:
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
    letter = DeadLetter(
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
        doubt_ms=_earlier_doubt(context.headers)
        or (_first_tried_ms(context, history) if doubtful else 0),
        worker=shown(context.hostname or ""),
        delivery=delivery_of(context),
    )
    return letter, _message_of(context)


def of_message(
    message: Any, *, reason: str, runnable: bool = False
) -> tuple[DeadLetter, Message | None]:
    """The letter of a message that became no job.

    Args:
        message: kombu's message.
        reason: Why it cannot be run.
        runnable: It is well formed, and only unknown here: another version of the workers may run
            it.
    """
    headers = message.headers if isinstance(message.headers, Mapping) else {}
    kept = _body_as_message(message, headers) if runnable else None
    letter = DeadLetter(
        id=_id_of(headers.get("id"), message),
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
    if isinstance(exc, Poisoned | WorkerLostError):
        return "poison"
    if isinstance(exc, TimeLimitExceeded | SoftTimeLimitExceeded):
        return "timeout"
    return "failed"


def reason_of(exc: BaseException) -> str:
    """Why a job ended, without what it holds.

    Only the sentences of our own errors are known to quote nothing.
    """
    name = type(exc).__name__
    if isinstance(exc, JobError):
        return sentence(redactor.redact(f"{name}: {exc}"))
    if isinstance(exc, TimeLimitExceeded | SoftTimeLimitExceeded):
        return f"{name}: it ran longer than it may"
    frames = list(traceback.walk_tb(exc.__traceback__))
    if not frames:
        return sentence(name)
    frame, line = frames[-1]
    return sentence(
        f"{name} in {'/'.join(frame.f_code.co_filename.rsplit('/', 2)[-2:])}, line {line}"
    )


def service_of(task: str) -> str:
    """Whose task it is."""
    return next(
        (service for start, service in _SERVICE_OF.items() if task.startswith(start)), "other"
    )


def queue_of(delivery_info: Any) -> str:
    """The queue that people know, of a message's delivery."""
    found = delivery_info.get("routing_key") if isinstance(delivery_info, Mapping) else None
    return shown(found or "").removesuffix(DEFERRED)


def delivery_of(context: Any) -> str:
    """Which message a job came by: the same again when that is delivered again.

    Empty where nobody knows.
    """
    found = (
        context.properties.get("delivery_tag") if isinstance(context.properties, Mapping) else None
    )
    return _lasting(found) if isinstance(found, str) and _ID_RE.fullmatch(found) else ""


def _lasting(tag: str) -> str:
    """What stays of a delivery's tag when the message comes again.

    The transport may put something behind it.
    """
    return tag.partition("@")[0]


def _id_of(found: Any, message: Any = None) -> str:
    if isinstance(found, str) and _ID_RE.fullmatch(found):
        return found
    tag = _lasting(str(getattr(message, "delivery_tag", None) or uuid.uuid4()))
    return f"no-id-{tag}" if _ID_RE.fullmatch(tag) else f"no-id-{uuid.uuid4()}"


def _first_tried_ms(context: Any, history: History) -> int:
    """When a job may have been carried out at the earliest.

    Long ago where nobody knows, as a worker died with it.
    """
    headers = context.headers if isinstance(context.headers, Mapping) else {}
    return _LONG_AGO_MS if came_again(context) and HEADER not in headers else history.since_ms


def _earlier_doubt(headers: Any) -> int:
    found = headers.get(DOUBT) if isinstance(headers, Mapping) else None
    return found if type(found) is int and found > 0 else 0


def _message_of(context: Any) -> Message | None:
    try:
        told = context.as_execution_options()
    except Exception:  # noqa: BLE001 - whatever a stranger wrote into the headers
        return None
    options = {name: told[name] for name in _KEPT_OPTIONS if told.get(name)}
    headers = {
        name: value for name, value in (told.get("headers") or {}).items() if name not in _OURS
    }
    if headers:
        options["headers"] = headers
    priority = (context.delivery_info or {}).get("priority")
    if priority:
        options["priority"] = priority
    return Message(list(context.args or ()), dict(context.kwargs or {}), options)


def _body_as_message(message: Any, headers: Mapping[str, Any]) -> Message | None:
    if not _ID_RE.fullmatch(str(headers.get("id"))) or len(message.body or "") > _LONGEST_RUNNABLE:
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
