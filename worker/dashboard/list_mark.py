"""Detects changes of the lists on the page: the dead letters and the audit trail."""

import hashlib
from collections.abc import Iterable

from redis.asyncio import Redis

from worker.action_log import ActionLog
from worker.deadletters import Counts, DeadLetters
from worker.keypool import KeyPool


async def mark_of(
    redis: Redis,
    pools: Iterable[KeyPool],
    dead_letters: DeadLetters,
    counts: Counts,
    *,
    actions: ActionLog,
) -> str:
    """Return a text that changes whenever one of the lists changes.

    Args:
        redis: The pools' Redis.
        pools: The key pools, with their audit streams.
        dead_letters: The dead letters.
        counts: The numbers of dead letters.
        actions: The log of what people did to jobs and workers.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    audits = (*(pool.names.audit for pool in pools), dead_letters.name("audit"), actions.name)
    async with redis.pipeline(transaction=False) as pipe:
        for stream in audits:
            pipe.xrevrange(stream, count=1)
        pipe.zrange(dead_letters.name("index"), -1, -1, withscores=True)
        *newest, latest = await pipe.execute()
    ends = [entries[0][0] if entries else "" for entries in newest]
    seen = repr((ends, latest, sorted(counts.of.items())))
    return hashlib.sha256(seen.encode()).hexdigest()[:16]
