"""Formats each record as one redacted line, in text or JSON."""

import json
import logging
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from celery._state import get_current_task

from worker.logs.redaction import Redactor

_MAX_DEPTH = 4  # values nested deeper are shown as text
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
# A terminal would obey some of these control characters.
_CONTROL_RE = re.compile(r"[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f]")
_JSON_BREAK_RE = re.compile(r"[\x85\u2028\u2029]")  # many readers break lines here
_LINE_BREAK_RE = re.compile(r"\s*[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+")


class RedactingFormatter(logging.Formatter):
    """Builds the line from redacted parts, so that no part of a record bypasses the redactor.

    Args:
        redacting: The redactor.
    """

    omitted: frozenset[str] = frozenset()
    """Extra fields that the line omits; redacting them would cost half of a line's time."""

    def __init__(self, redacting: Redactor) -> None:
        super().__init__()
        self._redactor = redacting

    def parts(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return the redacted parts of the line, in order."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        parts: dict[str, Any] = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": self._redactor.redact(_message(record)),
        }
        task = get_current_task()
        if task is not None and (task_id := task.request.id):
            parts |= {"task_id": task_id, "task_name": task.name}
        if not record.__dict__.keys() <= _STANDARD:
            self._add_extras(parts, record)
        if record.exc_info and record.exc_info[0] is not None:
            parts["exception"] = self._redactor.redact(self.formatException(record.exc_info))
        elif record.exc_text:
            parts["exception"] = self._redactor.redact(record.exc_text)
        if record.stack_info:
            parts["stack"] = self._redactor.redact(record.stack_info)
        return parts

    def _add_extras(self, parts: dict[str, Any], record: logging.LogRecord) -> None:
        for name, value in record.__dict__.items():
            if name not in _STANDARD and name not in self.omitted and not name.startswith("_"):
                # An extra field must not replace a part of the same name.
                parts[f"extra_{name}" if name in parts else name] = self._clean(value)

    def _clean(self, value: Any, depth: int = 0) -> Any:
        if _is_plain(value):
            return value
        if isinstance(value, Mapping) and depth < _MAX_DEPTH:
            return {
                self._redactor.redact(_text(name)): self._clean(item, depth + 1)
                for name, item in value.items()
            }
        if isinstance(value, list | tuple | set | frozenset) and depth < _MAX_DEPTH:
            return [self._clean(item, depth + 1) for item in value]
        return self._redactor.redact(_text(value))


def _is_plain(value: Any) -> bool:
    """Return whether a value can go into JSON as it is, and cannot hold a secret."""
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool | int)


class TextFormatter(RedactingFormatter):
    """`time level logger [task name id] message name=value …`, line breaks shown as ` | `."""

    omitted = frozenset({"data"})  # it repeats the message's values, for programs

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        parts = self.parts(record)
        task_id, task_name = parts.pop("task_id", None), parts.pop("task_name", None)
        head = f"{parts.pop('time')} {parts.pop('level'):<8} {parts.pop('logger')}"
        head += f" [{task_name} {task_id}] " if task_id else " "
        line = head + parts.pop("message")
        tail = [parts.pop(name) for name in ("exception", "stack") if name in parts]
        line += "".join(f" {name}={value}" for name, value in parts.items())
        line = _LINE_BREAK_RE.sub(" | ", "\n".join([line, *tail]))
        return _CONTROL_RE.sub(lambda match: f"\\x{ord(match[0]):02x}", line)


class JsonFormatter(RedactingFormatter):
    """A JSON object with time, level, logger, message and more.

    It also has task_id and task_name within a job, exception and stack if there are any, and the
    record's extra fields.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        # Emoji stay readable; the stream's error handler deals with lone surrogates.
        line = json.dumps(self.parts(record), ensure_ascii=False, separators=(",", ":"))
        return _JSON_BREAK_RE.sub(lambda match: f"\\u{ord(match[0]):04x}", line)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - a wrong log call must not end a job
        return f"{record.msg} (its arguments do not fit)"


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a value without a text must not end a job
        return f"<{type(value).__name__}>"
