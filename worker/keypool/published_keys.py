"""Publishes which keys the workers have, without the secrets, for tools that have no keys."""

import json
import time
from collections.abc import Iterable
from typing import Any, Final

from pydantic import SecretStr
from redis.asyncio import Redis

from config.api_key import ApiKey
from worker.foreign_json import read_json
from worker.keypool.names import Names

_KEPT_S: Final = 600
"""How long a key stays known after a worker last published it, in seconds."""
_EXPIRES_S: Final = 86_400


async def publish_keys(redis: Redis, names: Names, keys: Iterable[ApiKey]) -> None:
    """Publish the ids, labels, variables, accounts and senders of the keys that a worker has now.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    now_s = round(time.time())
    published: dict[Any, Any] = {
        key.id: json.dumps(
            {
                "label": key.label,
                "variable": key.variable,
                "account": key.account,
                "sender": key.sender,
                "seen_s": now_s,
            }
        )
        for key in keys
    }
    if published:
        async with redis.pipeline(transaction=False) as pipe:
            pipe.hset(names.keys, mapping=published)
            pipe.expire(names.keys, _EXPIRES_S)
            await pipe.execute()


async def published_keys(redis: Redis, names: Names) -> tuple[ApiKey, ...]:
    """Return the keys that workers have published, in the order of their variables.

    Their secrets are empty. A key that no worker has published for ten minutes, by the workers' own
    clocks, is forgotten.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    stored: dict[Any, Any] = await redis.hgetall(names.keys)
    published = {
        str(key_id): key
        for key_id, text in stored.items()
        if _is_ours(key := read_json(text))  # another program may have written to this hash
    }
    newest_s = max((key["seen_s"] for key in published.values()), default=0)
    gone = [key_id for key_id, key in published.items() if key["seen_s"] < newest_s - _KEPT_S]
    if gone:
        await redis.hdel(names.keys, *gone)
    keys = [
        ApiKey(
            names.service,
            key_id,
            key["label"],
            SecretStr(""),
            key["variable"],
            key["account"],
            key["sender"],
        )
        for key_id, key in published.items()
        if key_id not in gone
    ]
    return tuple(sorted(keys, key=lambda key: (len(key.variable), key.variable, key.id)))


def _is_ours(published: Any) -> bool:
    match published:
        case {
            "label": str(),
            "variable": str(),
            "account": str() | None,
            "sender": str() | None,
            "seen_s": int(),
        }:
            return True
    return False
