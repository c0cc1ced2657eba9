"""Builds the dead letter of a failed job, or of a message that cannot become a job."""

import base64
import re
import traceback
import uuid
from collections.abc import Mapping
from typing import Any, Final

from billiard.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError

from config.celery import DEFERRED
from worker.aio.transport.headers import DEATHS, DIED_S
from worker.attempts import latest, of_this_run
from worker.deadletters.dead_letter import OTHER, DeadLetter, Message, one_line, reason_line
from worker.errors import DeadlineExceeded, JobError, OutcomeUnknown, Poisoned
from worker.foreign_json import as_object, as_text, member
from worker.jobs.history import ALONE, DOUBT, HEADER, History, was_redelivered
from worker.jobs.message import ENQUEUED
from worker.jobs.task_service import service_of
from worker.logs import redactor

UNRUNNABLE: Final = "the message itself cannot be run"

_KEPT_OPTIONS = (
    "root_id", "parent_id", "group_id", "group_index", "shadow", "chord", "chain", "link",
    "link_error",
    "soft_time_limit", "time_limit", "reply_to", "replaced_task_nesting",
)  # fmt: skip
_OUR_HEADERS = (HEADER, DEATHS, ALONE, DIED_S, DOUBT, ENQUEUED, "redelivered")
_EMBEDDED = {"callbacks": "link", "errbacks": "link_error", "chain": "chain", "chord": "chord"}
"""The names of options in a message's body, and their names in `apply_async`."""
_MAX_RAW_BYTES = 65_536
_MAX_RUNNABLE_BYTES = 4_000_000
_LONG_AGO_MS = 1
_ID_RE = re.compile(r"[!-~]{1,200}")


def capture_job(context: Any, task: str, exc: BaseException) -> tuple[DeadLetter, Message | None]:
    """Build the dead letter of a failed job, and the message for a replay.

    Args:
        context: Celery's context of the request.
        task: The task's name.
        exc: The error that ended the job.
    """
    history = History.of(context.headers)
    kind = kind_of(exc)
    attempts = latest((*history.trail, *of_this_run()))
    unclear = kind in {"unknown", "timeout", "poison"} or not isinstance(exc, JobError)
    in_doubt = unclear or any(attempt.in_doubt for attempt in attempts)
    letter = DeadLetter(
        id=_id_of(context.id),
        task=one_line(task),
        queue=queue_of(context.delivery_info),
        service=owner_of(task),
        kind=kind,
        reason=reason_of(exc),
        since_ms=history.since_ms,
        faults=context.retries if isinstance(context.retries, int) else 0,
        deferrals=history.deferrals,
        calls=history.attempts + len(of_this_run()),
        attempts=tuple(attempt.as_json() for attempt in attempts),
        doubt_ms=_earlier_doubt(context.headers)
        or (_first_tried_ms(context, history) if in_doubt else 0),
        worker=one_line(context.hostname or ""),
        delivery=delivery_of(context),
    )
    return letter, _message_of(context)


def capture_message(
    message: Any, *, reason: str, runnable: bool = False
) -> tuple[DeadLetter, Message | None]:
    """Build the dead letter of a message that cannot become a job, and the message for a replay.

    Args:
        message: kombu's message.
        reason: Why the message cannot be run.
        runnable: Whether the message is well formed, and only its task is unknown here. Another
            version of the workers may know it.
    """
    headers = as_object(message.headers)
    kept = _body_as_message(message, headers) if runnable else None
    letter = DeadLetter(
        id=_id_of(headers.get("id"), message),
        task=one_line(headers.get("task") or "(none)"),
        queue=queue_of(message.delivery_info),
        service=owner_of(str(headers.get("task"))),
        kind="poison",
        reason=reason_line(reason),
        note="" if kept else UNRUNNABLE,
    )
    return letter, kept or Message(raw=_raw(message.body))


def kind_of(exc: BaseException) -> str:
    """Return how a job ended, as one of `KINDS`."""
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
    """Say why a job ended, in one sentence that quotes none of its arguments.

    For errors that are not Keywheel's, the sentence has only the type and the place in the code.
    """
    name = type(exc).__name__
    if isinstance(exc, JobError):
        return reason_line(redactor.redact(f"{name}: {exc}"))
    if isinstance(exc, TimeLimitExceeded | SoftTimeLimitExceeded):
        return f"{name}: it ran longer than its time limit"
    frames = list(traceback.walk_tb(exc.__traceback__))
    if not frames:
        return reason_line(name)
    frame, line = frames[-1]
    return reason_line(
        f"{name} in {'/'.join(frame.f_code.co_filename.rsplit('/', 2)[-2:])}, line {line}"
    )


def owner_of(task: str) -> str:
    """Return the owner of a task, one of `OWNERS`."""
    service = service_of(task)
    return service.name if service else OTHER


def queue_of(delivery_info: Any) -> str:
    """Name the queue of a message as people know it, without the suffix of deferred queues."""
    return one_line(member(delivery_info, "routing_key") or "").removesuffix(DEFERRED)


def delivery_of(context: Any) -> str:
    """Return the identity of a job's message; a redelivery has the same identity.

    Returns:
        The stable part of the delivery tag; empty if there is none.
    """
    tag = as_text(member(context.properties, "delivery_tag"))
    return _stable_part(tag) if _ID_RE.fullmatch(tag) else ""


def _stable_part(tag: str) -> str:
    """Return the part of a delivery tag that a redelivery keeps; a transport may append another."""
    return tag.partition("@")[0]


def _id_of(given: Any, message: Any = None) -> str:
    if isinstance(given, str) and _ID_RE.fullmatch(given):
        return given
    tag = _stable_part(str(getattr(message, "delivery_tag", None) or uuid.uuid4()))
    return f"no-id-{tag}" if _ID_RE.fullmatch(tag) else f"no-id-{uuid.uuid4()}"


def _first_tried_ms(context: Any, history: History) -> int:
    """Return the earliest instant at which a job may have been carried out.

    If its worker died before it could note the instant, this is an instant long ago.
    """
    began_before = was_redelivered(context) and HEADER not in as_object(context.headers)
    return _LONG_AGO_MS if began_before else history.since_ms


def _earlier_doubt(headers: Any) -> int:
    doubt_ms = member(headers, DOUBT)
    return doubt_ms if type(doubt_ms) is int and doubt_ms > 0 else 0


def _message_of(context: Any) -> Message | None:
    try:
        given = context.as_execution_options()
    except Exception:  # noqa: BLE001 - the headers may contain anything
        return None
    headers = given["headers"]  # a copy
    for name in _OUR_HEADERS:
        headers.pop(name, None)
    kept = {name: given.get(name) for name in _KEPT_OPTIONS}
    kept |= {"headers": headers, "priority": member(context.delivery_info, "priority")}
    options = {name: value for name, value in kept.items() if value}
    return Message(list(context.args or ()), dict(context.kwargs or {}), options)


def _body_as_message(message: Any, headers: Mapping[str, Any]) -> Message | None:
    if (
        not _ID_RE.fullmatch(str(headers.get("id")))
        or len(message.body or "") > _MAX_RUNNABLE_BYTES
    ):
        return None
    try:
        args, kwargs, embed = message.payload
    except Exception:  # noqa: BLE001 - the raw body is kept instead
        return None
    match args, kwargs, embed:
        case list(), dict(), dict() | None:
            given = {ours: member(embed, theirs) for theirs, ours in _EMBEDDED.items()}
            return Message(args, kwargs, {name: value for name, value in given.items() if value})
    return None


def _raw(body: Any) -> str:
    if isinstance(body, memoryview | bytearray):
        body = bytes(body)
    if not isinstance(body, bytes):
        return str(body)[:_MAX_RAW_BYTES]
    part = body[:_MAX_RAW_BYTES]
    try:
        return part.decode()
    except UnicodeDecodeError:
        return f"base64:{base64.b64encode(part).decode()}"
