"""Reads a stream in which Redis keeps what happened, for people."""

from typing import Any

from redis.asyncio import Redis


async def read_latest(
    redis: Redis, stream: str, *, count: int, before_ms: int | None
) -> list[tuple[str, dict[str, str]]]:
    """The ids and fields of the latest entries, newest first.

    Args:
        redis: A client that decodes responses to text.
        stream: The name of the stream.
        count: How many entries, at most.
        before_ms: Only entries before this instant, in milliseconds since 1970.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    latest = "+" if before_ms is None else str(before_ms - 1)
    entries: Any = await redis.xrevrange(stream, max=latest, count=count)
    return [(entry_id, dict(fields)) for entry_id, fields in entries]
