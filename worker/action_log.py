"""Writes down what people did that concerns no key, beside the audit streams of the key pools."""

from typing import Any, Final

from redis.asyncio import Redis

from worker.redis.audit_stream import read_latest

_LENGTH: Final = 1_000


class ActionLog:
    """What people did to jobs and workers: jobs cancelled, changes on Flower's own pages.

    Args:
        redis: The pool's Redis; a client that decodes responses to text.
        namespace: What stands before every name.
    """

    def __init__(self, redis: Redis, *, namespace: str) -> None:
        self._redis = redis
        self.name: Final = f"{{{namespace}:people}}:audit"
        """The stream."""

    def add(
        self,
        event: str,
        *,
        scope: str,
        name: str,
        by: str,
        reason: str = "",
        pipe: Any = None,
    ) -> Any:
        """Write down one action, in the form of the key pools' audit.

        Args:
            event: What was done.
            scope: What kind of thing it was done to.
            name: Which one, or how many.
            by: Who did it.
            reason: Why, or what is to be known beside.
            pipe: The pipeline that takes the command; without one it is to be awaited.
        """
        entry: dict[Any, Any] = {
            "event": event,
            "scope": scope,
            "name": name,
            "reason": reason,
            "by": by,
        }
        client = self._redis if pipe is None else pipe
        return client.xadd(self.name, entry, maxlen=_LENGTH, approximate=True)

    async def read(self, *, count: int = 100, before_ms: int | None = None) -> list[dict[str, str]]:
        """The latest entries, newest first.

        Args:
            count: How many, at most.
            before_ms: Only entries before this instant, in milliseconds since 1970.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        entries = await read_latest(self._redis, self.name, count=count, before_ms=before_ms)
        return [{"service": "", **fields} for _, fields in entries]
