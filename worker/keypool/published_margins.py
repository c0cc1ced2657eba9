"""Publishes the margins that Flower has learned, so that workers can make quotes with them."""

import json
from typing import Final

from redis.asyncio import Redis

from worker.foreign_json import read_json
from worker.keypool.margins import Margins
from worker.keypool.names import Names

_EXPIRES_S: Final = 7 * 86_400


async def publish_margins(redis: Redis, names: Names, margins: Margins) -> None:
    """Store the margins of a service for a week.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    await redis.set(names.margins, json.dumps(margins.of), ex=_EXPIRES_S)


async def published_margins(redis: Redis, names: Names) -> Margins:
    """Return the margins that were published last; assumed margins if there are none.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    text = await redis.get(names.margins)
    pairs = read_json(text)
    try:
        margins = Margins(tuple((float(factor), int(outcomes)) for factor, outcomes in pairs))
    except (TypeError, ValueError, OverflowError):  # nothing is stored, or another program's value
        return Margins()
    return margins if len(margins.of) == len(Margins().of) else Margins()
