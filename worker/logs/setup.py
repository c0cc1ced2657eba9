"""Sets logging up when Celery's signal `setup_logging` is sent."""

import json
import logging
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from typing import Final, TextIO

from pydantic import SecretStr

from config.api_key import ApiKey
from worker.logs.filters import ContentFilter, LostConnectionFilter
from worker.logs.formatters import JsonFormatter, TextFormatter
from worker.logs.redaction import redactor

# Loggers that write request bodies, arguments or addresses at the levels INFO and DEBUG.
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


def setup_logging(
    level: str | int,
    *,
    log_format: str = "text",
    secrets: Iterable[ApiKey | SecretStr | str] = (),
    stream: TextIO | None = None,
    path: str = "",
) -> logging.Handler:
    """Write every record of the process to a stream or a file, each as one redacted line.

    This replaces the handlers of the root logger.

    Args:
        level: The lowest level that is written. For libraries that log request bodies it is at
            least WARNING.
        log_format: `text` or `json`.
        secrets: Secrets to hide, besides texts that look like a key; see `Redactor.learn`.
        stream: The stream; standard error by default. It is set to UTF-8, whatever the locale.
        path: A file to write to, instead of a stream. If it is moved, a new file is opened.

    Returns:
        The handler, which the root logger now has.

    Raises:
        OSError: The file cannot be opened.
    """
    redactor.learn(secrets)
    target = stream or sys.stderr
    if (reconfigure := getattr(target, "reconfigure", None)) is not None:
        reconfigure(encoding="utf-8", errors="backslashreplace")
    handler: logging.Handler = logging.StreamHandler(target)
    if path:
        handler = WatchedFileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(
        JsonFormatter(redactor) if log_format == "json" else TextFormatter(redactor)
    )
    handler.addFilter(ContentFilter())
    handler.addFilter(LostConnectionFilter())
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(True)
    return handler


def say_json(
    message: str,
    stream: TextIO | None = None,  # noqa: ARG001 - Celery's signature
    *,
    level: str = "INFO",
    logger: str = "celery.apps.worker",
) -> None:
    """Write a line of JSON in place of text that Celery would print, such as in a signal handler.

    The line is written to standard error in one system call, because the signal handler may have
    interrupted the writing of another line.

    Args:
        message: The text.
        stream: Ignored.
        level: The level of the record.
        logger: The name of its logger.
    """
    moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    parts = {
        "time": moment,
        "level": level,
        "logger": logger,
        "message": message.strip(),
    }
    with suppress(OSError):
        os.write(
            sys.__stderr__.fileno() if sys.__stderr__ else 2, (json.dumps(parts) + "\n").encode()
        )
