"""Says in the messages that jobs send when they were enqueued, where a `dedupe_key` needs it."""

import time
from collections.abc import Mapping
from typing import Any

from worker.jobs.enqueued import HEADER


def note_enqueued(body: Any = None, headers: dict[str, Any] | None = None, **_: Any) -> None:
    """Write the instant into a message with a `dedupe_key`, before it is published.

    A job that is to run later counts from its first run on, so its message gets none.

    Args:
        body: The arguments, the keyword arguments and the options of the message.
        headers: Its headers. An instant that they give stays.
    """
    kwargs = body[1] if isinstance(body, tuple | list) and len(body) > 1 else None
    has_key = isinstance(kwargs, Mapping) and kwargs.get("dedupe_key") is not None
    if has_key and headers is not None and not headers.get("eta"):
        headers.setdefault(HEADER, round(time.time() * 1000))
