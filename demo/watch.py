"""Looks at everything a few times a second.

Results, key pools, audit streams, the workers' logs.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from config.keys import discover_keys
from config.services import SERVICES
from demo.story import Log, Story
from worker.keypool import KeyPool, PoolView

_ENDED = {"SUCCESS", "FAILURE", "REVOKED"}
_RESULT = "celery-task-meta-"
_NO_KEY = "no key is free"
_AUDIT_ENTRIES = 500


@dataclass(slots=True)
class Progress:
    """How far the jobs of one queue are.

    Attributes:
        total: How many jobs there are to be.
        ids: Those that are enqueued.
        results: What is stored of those that ended, by id.
        deferred: Jobs that wait for a key, back in the queue with a countdown.
        retrying: Jobs that wait for another try after a failure of the provider.
    """

    total: int
    ids: list[str] = field(default_factory=list)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    deferred: int = 0
    retrying: int = 0

    @property
    def done(self) -> int:
        """Jobs that ended well."""
        return sum(result["status"] == "SUCCESS" for result in self.results.values())

    @property
    def failed(self) -> int:
        """Jobs that ended otherwise."""
        return len(self.results) - self.done

    @property
    def open(self) -> int:
        """Jobs that have not ended."""
        return self.total - len(self.results)


class Watch:
    """The state of the demo, refreshed by `look`.

    Args:
        redis_url: Broker, results and pools in one.
        namespace: The pools' namespace.
        environment: Where the keys are named.
        logs: The workers' logs.
        totals: How many jobs there are to be, by queue.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        namespace: str,
        environment: dict[str, str],
        logs: Iterable[Path],
        totals: dict[str, int],
    ) -> None:
        self._redis = Redis.from_url(redis_url, decode_responses=True, socket_timeout=5.0)
        self._pools = {
            service: KeyPool(
                self._redis, service, discover_keys(service, environment).keys, namespace=namespace
            )
            for service in SERVICES
        }
        self._logs = [Log(path) for path in logs]
        self._enqueued: Log | None = None
        self._audit_seen = dict.fromkeys(SERVICES, "-")
        self.story = Story()
        self.story.labels = {
            key.id: key.label for pool in self._pools.values() for key in pool.keys
        }
        self.queues = {queue: Progress(total) for queue, total in totals.items()}
        self.views: dict[str, PoolView] = {}

    def follow(self, enqueued: Path) -> None:
        """Follow the jobs that the producer names in its output."""
        self._enqueued = Log(enqueued)

    @property
    def enqueued(self) -> int:
        """How many jobs the producer has enqueued so far."""
        return sum(len(progress.ids) for progress in self.queues.values())

    @property
    def over(self) -> bool:
        """Whether every job ended."""
        return not any(progress.open for progress in self.queues.values())

    async def look(self) -> None:
        """Refresh everything.

        Raises:
            redis.exceptions.RedisError: Redis does not answer.
        """
        for line in self._enqueued.new_lines() if self._enqueued else ():
            queue, _, job = line.partition(" ")
            self.queues[queue].ids.append(job)
        for progress in self.queues.values():
            await self._read_results(progress)
        for service, pool in self._pools.items():
            await self._read_audit(service, pool)
            self.views[service] = view = await pool.snapshot()
            self.story.wake(view.now_ms)
        for log in self._logs:
            for line in log.new_lines():
                self.story.read_line(line)
        self.story.tell_crowds(all_of_them=self.over)

    async def _read_results(self, progress: Progress) -> None:
        waiting = [job for job in progress.ids if job not in progress.results]
        if not waiting:
            progress.deferred = progress.retrying = 0
            return
        deferred = retrying = 0
        for job, text in zip(
            waiting, await self._redis.mget([_RESULT + job for job in waiting]), strict=True
        ):
            found = json.loads(text) if text else {}
            if found.get("status") in _ENDED:
                progress.results[job] = found
            elif found.get("status") == "RETRY":
                # By its words: the type of an error that cannot be pickled is lost on the way.
                waits = _NO_KEY in str(found.get("result"))
                deferred += waits
                retrying += not waits
        progress.deferred, progress.retrying = deferred, retrying

    async def _read_audit(self, service: str, pool: KeyPool) -> None:
        entries: Any = await self._redis.xrange(
            pool.names.audit, min=self._audit_seen[service], count=_AUDIT_ENTRIES
        )
        for number, fields in entries:
            self._audit_seen[service] = f"({number}"
            self.story.read_audit(service, fields)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
