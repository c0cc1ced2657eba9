"""Reads the audit trails, streams of events in Redis that are meant for people."""

import re
from typing import Any, Final

from redis.asyncio import Redis

_TEXTS: Final = ("event", "scope", "name", "reason", "by")
_NUMBER_RE: Final = re.compile(r"-?[0-9]{1,15}")


async def read_latest(
    redis: Redis, stream: str, *, count: int, before_ms: int | None
) -> list[tuple[str, dict[str, str]]]:
    """Return the ids and fields of the latest entries, newest first.

    Another program may have written an entry: missing fields, and numbers that are not valid, get a
    default.

    Args:
        redis: A client that decodes responses to text.
        stream: The name of the stream.
        count: The most entries to return.
        before_ms: Return only entries before this instant, in milliseconds since 1970.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    latest = "+" if before_ms is None else str(before_ms - 1)
    entries: Any = await redis.xrevrange(stream, max=latest, count=count)
    return [(entry_id, _whole(entry_id, dict(fields))) for entry_id, fields in entries]


def _whole(entry_id: str, fields: dict[str, str]) -> dict[str, str]:
    whole = dict.fromkeys(_TEXTS, "") | fields
    for name, otherwise in (("at_ms", entry_id.partition("-")[0]), ("until_ms", "0")):
        if not _NUMBER_RE.fullmatch(whole.get(name, "")):
            whole[name] = otherwise
    return whole
