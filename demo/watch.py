"""Watches the demo: results, key pools, audit streams and the workers' logs."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from config.keys import discover_keys
from config.services import SERVICES
from demo.log_file import LogFile
from demo.timeline import Timeline
from worker.keypool import KeyPool, PoolView

_ENDED = {"SUCCESS", "FAILURE", "REVOKED"}
_RESULT = "celery-task-meta-"
_MAX_AUDIT_ENTRIES = 500


@dataclass(slots=True)
class Progress:
    """How far the jobs of one queue are.

    Attributes:
        total: How many jobs the demo enqueues.
        ids: The ids of the jobs that have been enqueued.
        results: The stored results of the jobs that have ended, by id.
        deferred: How many jobs are back in the queue with a countdown and wait for a key.
        retrying: How many jobs wait for a retry after a failure of the provider.
    """

    total: int
    ids: list[str] = field(default_factory=list)
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    deferred: int = 0
    retrying: int = 0

    @property
    def done(self) -> int:
        """How many jobs have succeeded."""
        return sum(result["status"] == "SUCCESS" for result in self.results.values())

    @property
    def failed(self) -> int:
        """How many jobs have ended without success."""
        return len(self.results) - self.done

    @property
    def open(self) -> int:
        """How many jobs have not ended."""
        return self.total - len(self.results)


class Watch:
    """The state of the demo, as of the last `refresh`.

    Args:
        redis_url: The Redis that holds queues, results and pools.
        namespace: The pools' namespace.
        variables: The environment variables, with the keys.
        logs: The workers' logs.
        totals: How many jobs the demo enqueues, by queue.
    """

    def __init__(
        self,
        redis_url: str,
        *,
        namespace: str,
        variables: dict[str, str],
        logs: Iterable[Path],
        totals: dict[str, int],
    ) -> None:
        self._redis = Redis.from_url(redis_url, decode_responses=True, socket_timeout=5.0)
        self._pools = {
            service: KeyPool(
                self._redis, service, discover_keys(service, variables).keys, namespace=namespace
            )
            for service in SERVICES
        }
        self._logs = [LogFile(path) for path in logs]
        self._enqueued: LogFile | None = None
        self._audit_seen = dict.fromkeys(SERVICES, "-")
        self.timeline = Timeline()
        self.timeline.labels = {
            key.id: key.label for pool in self._pools.values() for key in pool.keys
        }
        self.queues = {queue: Progress(total) for queue, total in totals.items()}
        self.views: dict[str, PoolView] = {}

    def follow(self, enqueued: Path) -> None:
        """Follow the jobs that the producer names in its output."""
        self._enqueued = LogFile(enqueued)

    @property
    def enqueued(self) -> int:
        """How many jobs the producer has enqueued so far."""
        return sum(len(progress.ids) for progress in self.queues.values())

    @property
    def over(self) -> bool:
        """Whether every job has ended."""
        return not any(progress.open for progress in self.queues.values())

    async def refresh(self) -> None:
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
            self.timeline.end_rests(view.now_ms)
        for log in self._logs:
            for line in log.new_lines():
                self.timeline.read_log(line)
        self.timeline.add_groups(at_once=self.over)

    async def _read_results(self, progress: Progress) -> None:
        waiting = [job for job in progress.ids if job not in progress.results]
        if not waiting:
            progress.deferred = progress.retrying = 0
            return
        deferred = retrying = 0
        for job, text in zip(
            waiting, await self._redis.mget([_RESULT + job for job in waiting]), strict=True
        ):
            meta = json.loads(text) if text else {}
            if meta.get("status") in _ENDED:
                progress.results[job] = meta
            elif meta.get("status") == "RETRY":
                is_deferred = (meta.get("waits") or {}).get("kind") == "key"
                deferred += is_deferred
                retrying += not is_deferred
        progress.deferred, progress.retrying = deferred, retrying

    async def _read_audit(self, service: str, pool: KeyPool) -> None:
        entries: Any = await self._redis.xrange(
            pool.names.audit, min=self._audit_seen[service], count=_MAX_AUDIT_ENTRIES
        )
        for number, fields in entries:
            self._audit_seen[service] = f"({number}"
            self.timeline.read_audit(service, fields)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()
