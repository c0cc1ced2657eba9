"""Reads the audit stream of a pool, for people."""

from collections.abc import Sequence

from redis.asyncio import Redis

from config.api_key import ApiKey
from worker.redis.audit_stream import read_latest


async def read(
    redis: Redis, stream: str, *, keys: Sequence[ApiKey], count: int, before_ms: int | None
) -> list[dict[str, str]]:
    """Return the latest entries, newest first. Known keys appear by their labels.

    Args:
        redis: A client that decodes responses to text.
        stream: The name of the stream.
        keys: The keys whose labels are known.
        count: The maximum number of entries.
        before_ms: Only entries before this instant, in milliseconds since 1970.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    entries = await read_latest(redis, stream, count=count, before_ms=before_ms)
    return [_with_labels(fields, keys) for _, fields in entries]


def _with_labels(entry: dict[str, str], keys: Sequence[ApiKey]) -> dict[str, str]:
    name = entry["name"]
    if entry["scope"] == "account_model":
        name = name.replace(":", " × ", 1).removesuffix(" × ")
    for key in keys:
        name = name.replace(key.id, key.label)
    return entry | {"name": name}
