"""The margins of quotes that a Flower has learned, for workers, which make quotes as well."""

import json
from typing import Final

from redis.asyncio import Redis

from worker.foreign_json import read_json
from worker.keypool.margins import Margins
from worker.keypool.names import Names

_EXPIRES_S: Final = 7 * 86_400


async def publish_margins(redis: Redis, names: Names, margins: Margins) -> None:
    """Keep the margins of a service for a week.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    await redis.set(names.margins, json.dumps(margins.of), ex=_EXPIRES_S)


async def published_margins(redis: Redis, names: Names) -> Margins:
    """Return the margins that were published last; assumed ones where none were.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    text = await redis.get(names.margins)
    pairs = read_json(text)
    try:
        margins = Margins(tuple((float(factor), int(outcomes)) for factor, outcomes in pairs))
    except (TypeError, ValueError, OverflowError):  # none, or another program's
        return Margins()
    return margins if len(margins.of) == len(Margins().of) else Margins()
