"""Writes the messages that the workers read: docs/enqueueing.md, "From anything"."""

import base64
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from keywheel_client.checks import expires_s_of, is_whole

QUEUES: Final = {"tasks.ai": "ai", "tasks.email": "email", "tasks.admin": "admin"}
"""The queue of each group of tasks."""
_PRIORITY_STEPS: Final = (9, 6, 3, 0)
_SEPARATOR: Final = "\x06\x16"
_TENANT: Final = re.compile(r"[!#-\[\]-~]{1,200}")
_JOB_ID: Final = re.compile(r"[!-~]{1,200}")


@dataclass(frozen=True, slots=True)
class Message:
    """The message of one job.

    Attributes:
        job: The job's id.
        list_name: The Redis list that the message is pushed to.
        fields: The message.
        has_dedupe_key: Whether the job has a dedupe key. The message then says when the job was
            enqueued, which decides which job it joins.
    """

    job: str
    list_name: str
    fields: dict[str, Any]
    has_dedupe_key: bool

    def text(self, enqueued_ms: int = 0) -> str:
        """Write the text to push.

        Args:
            enqueued_ms: When the job is enqueued, in milliseconds since 1970; used if the job has a
                `dedupe_key`.
        """
        if self.has_dedupe_key and enqueued_ms:
            self.fields["headers"]["enqueued_ms"] = enqueued_ms
        return json.dumps(self.fields)


def message_of(
    task: str,
    arguments: Mapping[str, Any],
    *,
    job_id: str | None = None,
    priority: int | None = None,
    expires_s: float | None = None,
    tenant: str | None = None,
    track_started: bool = False,
) -> Message:
    """Write a job's message.

    Args:
        task: The task's name.
        arguments: Its arguments, by name.
        job_id: The job's id; None: a new id.
        priority: 0 to 9, the most urgent first; from 6 on the job is bulk.
        expires_s: The time after which no run of the job begins, in seconds.
        tenant: The tenant for whom the job is; None: no tenant.
        track_started: Whether the worker stores that the job runs.

    Raises:
        TypeError: An argument cannot be written as JSON.
        ValueError: A number is NaN or infinite, or the id, the priority, the time or the tenant is
            not allowed.
    """
    if priority is not None and not (is_whole(priority) and 0 <= priority <= 9):  # noqa: PLR2004
        raise ValueError("priority must be a whole number from 0 to 9")
    if tenant is not None and not _fits(_TENANT, tenant):
        raise ValueError(
            "tenant must have 1 to 200 printable ASCII characters other than spaces, quotes and \\"
        )
    if job_id is not None and not _fits(_JOB_ID, job_id):
        raise ValueError("job_id must have 1 to 200 visible ASCII characters, without spaces")
    queue = QUEUES[task.rpartition(".")[0]]
    job = job_id or str(uuid.uuid4())
    headers: dict[str, Any] = {"task": task, "id": job}
    if expires_s is not None:
        headers["expires"] = (
            datetime.now(UTC) + timedelta(seconds=expires_s_of(expires_s))
        ).isoformat()
    if tenant is not None:
        headers["tenant"] = tenant
    if track_started:
        headers["track_started"] = True
    properties = {
        "body_encoding": "base64",
        "delivery_tag": str(uuid.uuid4()),
        "delivery_info": {"exchange": "", "routing_key": queue},
    } | ({} if priority is None else {"priority": priority})
    fields = {
        "body": base64.b64encode(_encoded([[], arguments, {}]).encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": properties,
    }
    has_dedupe_key = arguments.get("dedupe_key") is not None
    return Message(job, _list_of(queue, priority or 0), fields, has_dedupe_key)


def _fits(form: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and form.fullmatch(value) is not None


def _list_of(queue: str, priority: int) -> str:
    step = next(step for step in _PRIORITY_STEPS if step <= priority)
    return f"{queue}{_SEPARATOR}{step}" if step else queue


def _encoded(value: Any) -> str:
    return json.dumps(value, allow_nan=False, default=_as_json)


def _as_json(value: Any) -> Any:
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ValueError(f"{value} has no time zone: give one, such as datetime.now(UTC)")
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    raise TypeError(f"an argument of type {type(value).__name__} cannot be written as JSON")
