"""Logs: one line per record, as text or JSON, without a single secret.

`setup_logging` is meant for Celery's signal of the same name. The lines about keys are functions
here, so that their shape is written once.
"""

import json
import logging
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from celery._state import get_current_task
from pydantic import SecretStr

from config.keys import ApiKey, masked_key
from config.services import SERVICES
from config.urls import masked_url, passwords_in

_log = logging.getLogger("worker.keys")

_LONGEST_SHORT_PREFIX = 3


def _key_shapes(prefix: str) -> str:
    """A pattern of what looks like a key that begins with a prefix.

    A short prefix, such as `re_`, also ends many words. So it counts at the beginning of a word; and
    within one (`core_settings_module`) only if a digit follows, as keys have some.
    """
    start = re.escape(prefix)
    if len(prefix) > _LONGEST_SHORT_PREFIX:
        return f"{start}[A-Za-z0-9]{{20,}}"
    return (
        f"(?<![A-Za-z0-9_]){start}[A-Za-z0-9_]{{16,}}|{start}(?=[A-Za-z_]*[0-9])[A-Za-z0-9_]{{16,}}"
    )


_KEY_SHAPE_RE = re.compile(
    "|".join(_key_shapes(service.key_prefix) for service in SERVICES.values() if service.key_prefix)
)
_HIDDEN = "***"
_SHORTEST_SECRET = 6
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_CONTROL_RE = re.compile(
    r"[\x00-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f]"
)  # a terminal would obey some of them
_JSON_BREAK_RE = re.compile(r"[\x85\u2028\u2029]")  # line breaks to many readers, but not to JSON
_LINE_BREAK_RE = re.compile(r"\s*[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+")

# Loggers that write request bodies, arguments or addresses at their talkative levels.
_QUIET: Final = (
    "groq",
    "httpx",
    "httpcore",
    "openai",
    "resend",
    "celery.pool",
    "celery.concurrency",
    "hpack",
    "asyncio",
)
# Of Celery's own context only what is no content: the rest is arguments, results and tracebacks.
_SAFE_CONTEXT = frozenset(
    {"id", "name", "eta", "runtime", "hostname", "description", "exc", "internal", "waits"}
)


class Redactor:
    """Replaces known secrets, everything shaped like a key, and passwords in URLs.

    Learns, and never forgets.
    """

    def __init__(self) -> None:
        self._labels: dict[str, str] = {}
        self._known_re: re.Pattern[str] | None = None

    def learn(self, secrets: Iterable[ApiKey | SecretStr | str]) -> None:
        """Hide these too from now on.

        Args:
            secrets: Keys are replaced by their label, other secrets by `***`, of a URL only the
                password. Below six characters they are ignored, since hiding each occurrence of so
                short a text would spoil the log and reveal it.
        """
        for item in secrets:
            if isinstance(item, ApiKey):
                self._remember(item.secret.get_secret_value(), item.label)
                continue
            value = item if isinstance(item, str) else item.get_secret_value()
            # Of a URL only the password is secret: "cannot connect to ***" would help nobody.
            for secret in passwords_in(value) if "://" in value else (value,):
                self._remember(
                    secret, masked_key(secret) if _KEY_SHAPE_RE.fullmatch(secret) else _HIDDEN
                )
        if self._labels:
            longest_first = sorted(self._labels, key=len, reverse=True)
            self._known_re = re.compile("|".join(map(re.escape, longest_first)))

    def _remember(self, secret: str, label: str) -> None:
        if len(secret) >= _SHORTEST_SECRET:
            # repr and JSON write some characters otherwise than they are.
            for form in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]):
                self._labels.setdefault(form, label)

    def redact(self, text: str) -> str:
        """Give the text without secrets; the same object where there is none."""
        if self._known_re is not None:
            text = self._known_re.sub(lambda match: self._labels[match[0]], text)
        if "gsk_" in text or "re_" in text:
            text = _KEY_SHAPE_RE.sub(lambda match: masked_key(match[0]), text)
        return masked_url(text)


redactor: Final = Redactor()
"""The one of this process."""


# What Celery's consumer logs of a message that it cannot run, and which of the values are its body
# and headers.
_WHOLE_MESSAGES: Final = {
    "Received unregistered task": (1, 2),
    "Received invalid task message": (1,),
    "Can't decode message body": (3, 4),
    "Received and deleted unknown message": (0,),
}
_UNDECODED: Final = "Can't decode message body"


class _ContentFilter(logging.Filter):
    """Takes arguments and results, which are prompts and mail bodies, out of Celery's own records."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.startswith("celery."):
            if isinstance(record.args, Mapping) and "return_value" in record.args:
                record.args = {**record.args, "return_value": "(not shown)"}
            elif isinstance(record.args, tuple):
                record.args = _without_messages(str(record.msg), record.args)
                if str(record.msg).startswith(_UNDECODED):
                    # The error of an encoding quotes the whole text.
                    record.args = (type(record.args[0]), *record.args[1:])
                    record.exc_info = record.exc_text = None
            data = record.__dict__.get("data")
            if isinstance(data, Mapping):
                record.__dict__["data"] = {
                    name: data[name] for name in data if name in _SAFE_CONTEXT
                }
        return True


def _without_messages(template: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    for start, places in _WHOLE_MESSAGES.items():
        if template.startswith(start):
            return tuple(
                "(not shown)" if place in places else value for place, value in enumerate(values)
            )
    return values


class RedactingFormatter(logging.Formatter):
    """Builds the line from parts that went through the redactor, so nothing of a record can pass by it.

    Args:
        guard: What hides the secrets.
    """

    untold: frozenset[str] = frozenset()
    """Extra fields that the line does without; to redact them is half of a line's cost."""

    def __init__(self, guard: Redactor) -> None:
        super().__init__()
        self._guard = guard

    def parts(self, record: logging.LogRecord) -> dict[str, Any]:
        """Give what the line tells, in order, redacted."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        parts: dict[str, Any] = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": self._guard.redact(_message(record)),
        }
        task = get_current_task()
        if task is not None and task.request.id:
            parts |= {"task_id": task.request.id, "task_name": task.name}
        if not record.__dict__.keys() <= _STANDARD:
            for name, value in record.__dict__.items():
                if name not in _STANDARD and name not in self.untold and not name.startswith("_"):
                    # A name that is taken keeps its meaning.
                    parts[f"extra_{name}" if name in parts else name] = self._clean(value)
        if record.exc_info and record.exc_info[0] is not None:
            parts["exception"] = self._guard.redact(self.formatException(record.exc_info))
        elif record.exc_text:
            parts["exception"] = self._guard.redact(record.exc_text)
        if record.stack_info:
            parts["stack"] = self._guard.redact(record.stack_info)
        return parts

    def _clean(self, value: Any, depth: int = 0) -> Any:
        if (
            value is None
            or isinstance(value, bool | int)
            or (isinstance(value, float) and math.isfinite(value))
        ):
            return value
        if isinstance(value, Mapping) and depth < 4:  # noqa: PLR2004 - deeper ones are shown as text
            return {
                self._guard.redact(_text(name)): self._clean(item, depth + 1)
                for name, item in value.items()
            }
        if isinstance(value, list | tuple | set | frozenset) and depth < 4:  # noqa: PLR2004
            return [self._clean(item, depth + 1) for item in value]
        return self._guard.redact(_text(value))


class TextFormatter(RedactingFormatter):
    """`time level logger [task name id] message name=value …`, line breaks shown as ` | `."""

    untold = frozenset({"data"})  # Celery's twin of the message, for machines

    def format(self, record: logging.LogRecord) -> str:
        """Give the line."""
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
    """One JSON object.

    Time, level, logger, message, task_id, task_name, exception, and the record's extra fields.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Give the line."""
        # Not ASCII only: emoji stay readable. Lone surrogates are left to the stream's error
        # handler.
        line = json.dumps(self.parts(record), ensure_ascii=False, separators=(",", ":"))
        return _JSON_BREAK_RE.sub(lambda match: f"\\u{ord(match[0]):04x}", line)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - a wrong log call must not end a job, whatever its arguments do
        return f"{record.msg} (its arguments do not fit)"


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - the same
        return f"<{type(value).__name__}>"


def setup_logging(
    level: str | int,
    *,
    log_format: str = "text",
    secrets: Iterable[ApiKey | SecretStr | str] = (),
    stream: TextIO | None = None,
) -> logging.Handler:
    """Send every record of the process, as one redacted line, to a stream.

    Replaces the root logger's handlers.

    Args:
        level: The least level shown. Libraries that log request bodies stay at WARNING whatever it
            is.
        log_format: `text` or `json`.
        secrets: What to hide beside everything shaped like a key; see `Redactor.learn`.
        stream: Where to; standard error by default. Made to write UTF-8 whatever the locale.

    Returns:
        The handler, which the root logger now has.
    """
    redactor.learn(secrets)
    target = stream or sys.stderr
    if (reconfigure := getattr(target, "reconfigure", None)) is not None:
        reconfigure(encoding="utf-8", errors="backslashreplace")
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        JsonFormatter(redactor) if log_format == "json" else TextFormatter(redactor)
    )
    handler.addFilter(_ContentFilter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(True)
    return handler


def say_json(message: str, stream: TextIO | None = None) -> None:  # noqa: ARG001 - Celery names standard output
    """Say what Celery says from within a signal handler, as a line of JSON on standard error.

    By one system call, since the handler may have interrupted who writes the log.
    """
    moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    parts = {
        "time": moment,
        "level": "INFO",
        "logger": "celery.apps.worker",
        "message": message.strip(),
    }
    with suppress(OSError):
        os.write(
            sys.__stderr__.fileno() if sys.__stderr__ else 2, (json.dumps(parts) + "\n").encode()
        )


def log_key_used(label: str, *, service: str, attempt: int, attempts: int) -> None:
    """Log `🤖 Using Groq key: gsk_abc123... (attempt 1/3)`.

    Args:
        label: The key's label.
        service: The service's name.
        attempt: Which attempt of the rotation this is, from 1.
        attempts: How many there can be: one a key.
    """
    _log.info(
        "%s Using %s key: %s (attempt %d/%d)",
        SERVICES[service].icon,
        SERVICES[service].title,
        label,
        attempt,
        attempts,
    )


def log_key_failed(label: str, *, failed: int, total: int) -> None:
    """Log `🚨 API key marked as failed: gsk_abc123... (1/3 failed)`.

    Args:
        label: The key's label.
        failed: How many keys of its service are out now, this one included.
        total: How many keys its service has.
    """
    _log.warning("🚨 API key marked as failed: %s (%d/%d failed)", label, failed, total)


def log_keys_reset(service: str) -> None:
    """Log `🔄 Groq failed keys reset`.

    Args:
        service: The service's name.
    """
    _log.info("🔄 %s failed keys reset", SERVICES[service].title)
