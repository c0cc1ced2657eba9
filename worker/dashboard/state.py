"""Defines the state at one instant: services, queues, dead letters and unknown answers."""

from dataclasses import asdict, dataclass, field
from typing import Any

from worker.dashboard.deferred_jobs import DeferredJob
from worker.deadletters import Counts
from worker.keypool import PoolView
from worker.providers.drift import Seen

MAX_UNKNOWN = 50
"""How many unknown answers the JSON holds; the latest come first."""


@dataclass(frozen=True, slots=True)
class QueueView:
    """The waiting jobs of a service.

    Attributes:
        name: The name of the queue.
        ready: Jobs in the broker that no worker has fetched.
        deferred: Jobs in the broker that wait there for their next try.
        held: Jobs in the workers that wait there for a key.
        paused_workers: Workers that have paused this queue, because they hold as many jobs as their
            keys can serve soon.
        workers: Workers that answered the latest poll.
        clock_skew_s: The largest difference between a worker's clock and Redis', in seconds.
        oldest_s: Lower bound of how long the oldest interactive job has waited, in seconds.
            Deferred jobs are included.
        oldest_bulk_s: Lower bound of how long the oldest bulk job has waited, in seconds. Bulk jobs
            wait while interactive jobs use all that the keys allow.
        deferred_jobs: Some of the deferred jobs: the first and the last to come back.
        known: False if the broker has not answered lately; then the numbers mean nothing.
    """

    name: str
    ready: int = 0
    deferred: int = 0
    held: int = 0
    paused_workers: int = 0
    workers: int = 0
    clock_skew_s: float = 0.0
    oldest_s: float = 0.0
    oldest_bulk_s: float = 0.0
    deferred_jobs: tuple[DeferredJob, ...] = ()
    known: bool = True

    @property
    def waiting(self) -> int:
        """All jobs that wait, in the broker or in a worker."""
        return self.ready + self.deferred + self.held

    @property
    def paused(self) -> str:
        """Which workers have paused the queue: `none`, `some` or `all`.

        `unknown` if no worker answers.
        """
        if not self.workers:
            return "unknown"
        if not self.paused_workers:
            return "none"
        return "all" if self.paused_workers >= self.workers else "some"


@dataclass(frozen=True, slots=True)
class ServiceView:
    """The keys and jobs of one service.

    Attributes:
        pool: The service's keys.
        queue: The service's queue.
        rate: Jobs that ended a second, over the last minute.
        idle_s: How long jobs have waited without any call although a key has room, in seconds;
            0 while calls are made.
    """

    pool: PoolView
    queue: QueueView
    rate: float
    idle_s: float = 0.0

    @property
    def drain_s(self) -> float | None:
        """The seconds until the queue is empty at this rate; None if no job ends.

        The queue is not empty before the last deferred job has come back.
        """
        if not self.queue.waiting:
            return 0.0 if self.queue.known else None
        if self.rate <= 0:
            return None
        last_ms = max((job.next_try_ms for job in self.queue.deferred_jobs), default=0)
        return max(self.queue.waiting / self.rate, (last_ms - self.pool.now_ms) / 1000)

    def as_json(self) -> dict[str, Any]:
        """Return all fields in JSON types."""
        queue = asdict(self.queue) | {"waiting": self.queue.waiting, "paused": self.queue.paused}
        return self.pool.as_json() | {
            "queue": queue
            | {
                "rate": round(self.rate, 3),
                "drain_s": self.drain_s,
                "idle_s": round(self.idle_s, 1),
            },
        }


@dataclass(frozen=True, slots=True)
class DashboardState:
    """All services, the dead letters and the unknown answers.

    Attributes:
        services: The services by name.
        dead_letters: How many dead letters there are.
        evicts: The `maxmemory-policy` of a Redis that may throw away jobs; empty if Redis keeps
            them, or does not show its policy.
        unknown: The providers' answers that this version does not know, the latest first.
        changes: A text that changes whenever the dead letters or the audit trail change.
    """

    services: dict[str, ServiceView]
    dead_letters: Counts = field(default_factory=lambda: Counts({}))
    evicts: str = ""
    unknown: tuple[Seen, ...] = ()
    changes: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return all fields in JSON types."""
        services = {name: view.as_json() for name, view in self.services.items()}
        unknown = [answer.as_json() for answer in self.unknown[:MAX_UNKNOWN]]
        return {
            "services": services,
            "dead_letters": self.dead_letters.as_json(),
            "evicts": self.evicts,
            "unknown_answers": unknown,
            "changes": self.changes,
        }
