"""Logs people's actions that do not concern keys, beside the audit streams of the key pools."""

from typing import Any, Final

from redis.asyncio import Redis

from worker.redis.audit_stream import read_latest

_LENGTH: Final = 1_000


class ActionLog:
    """The log of people's actions on jobs and workers: cancels, and changes on Flower's own pages.

    Args:
        redis: The pool's Redis; a client that decodes responses to text.
        namespace: The prefix of every name.
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
        """Add one action, in the form of the key pools' audit.

        Args:
            event: The action, such as `cancelled`.
            scope: The kind of object that was changed, such as `job`.
            name: The object's name, or the number of objects.
            by: The actor, such as `cli ann`, or a task that a program sent.
            reason: The reason, or further details.
            pipe: The pipeline that takes the command. Without a pipeline, await the returned value.
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
        """Return the latest entries, newest first.

        Args:
            count: The largest number of entries.
            before_ms: Return only entries before this instant, in milliseconds since 1970.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
        """
        entries = await read_latest(self._redis, self.name, count=count, before_ms=before_ms)
        return [{"service": "", **fields} for _, fields in entries]
