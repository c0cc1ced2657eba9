"""Everything the page shows, at one instant."""

from dataclasses import asdict, dataclass, field
from typing import Any

from worker.dashboard.deferred_jobs import DeferredJob
from worker.deadletters import Counts
from worker.keypool import PoolView
from worker.providers.drift import Seen

MOST_UNKNOWN = 50
"""How many unknown answers are told at once, the latest of them."""


@dataclass(frozen=True, slots=True)
class Minute:
    """What one minute brought to a service.

    Attributes:
        at_ms: When the minute began, in milliseconds since 1970.
        calls: Calls that ended in it.
        refused: Those of them that were refused with a 429.
    """

    at_ms: int
    calls: int
    refused: int


@dataclass(frozen=True, slots=True)
class QueueView:
    """The jobs of a service that wait.

    Attributes:
        name: The queue.
        ready: Jobs in the broker that no worker has fetched.
        deferred: Jobs in the broker on their way back, waiting for their instant.
        held: Jobs in the workers that wait there for a key.
        paused_workers: Workers that take no more of this queue for now: they hold what their keys
            serve soon.
        workers: Workers that answered.
        oldest_s: The job that has waited longest has waited for at least so long, in seconds,
            deferred jobs included, bulk jobs not.
        oldest_bulk_s: The same of bulk jobs, which wait for as long as interactive ones use all
            that the keys allow.
        deferred_jobs: Some of the deferred ones: those that come back first, and those that come
            back last.
        known: False where the broker did not answer lately: then the numbers mean nothing.
    """

    name: str
    ready: int = 0
    deferred: int = 0
    held: int = 0
    paused_workers: int = 0
    workers: int = 0
    oldest_s: float = 0.0
    oldest_bulk_s: float = 0.0
    deferred_jobs: tuple[DeferredJob, ...] = ()
    known: bool = True

    @property
    def waiting(self) -> int:
        """All jobs that wait, wherever."""
        return self.ready + self.deferred + self.held

    @property
    def paused(self) -> str:
        """`none` of the workers has paused the queue, `some` or `all` have.

        `unknown` where no worker answers.
        """
        if not self.workers:
            return "unknown"
        return (
            "none"
            if not self.paused_workers
            else "all"
            if self.paused_workers >= self.workers
            else "some"
        )


@dataclass(frozen=True, slots=True)
class ServiceView:
    """One service: its keys, its queue, its last hour, and when the queue will be empty.

    Attributes:
        pool: Its keys.
        queue: Its queue.
        history: Its last hour, by minutes.
        rate: Jobs that ended a second, over the last minute or so.
        idle_s: For so long jobs have waited, a key has had room, and no call was made, in seconds;
            0: all is well.
    """

    pool: PoolView
    queue: QueueView
    history: tuple[Minute, ...]
    rate: float
    idle_s: float = 0.0

    @property
    def drain_s(self) -> float | None:
        """In how many seconds the queue is empty at this rate; None where nothing moves."""
        if not self.queue.waiting:
            return 0.0 if self.queue.known else None
        return self.queue.waiting / self.rate if self.rate > 0 else None

    def as_json(self) -> dict[str, Any]:
        """Everything, in JSON types."""
        queue = asdict(self.queue) | {"waiting": self.queue.waiting, "paused": self.queue.paused}
        return self.pool.as_json() | {
            "queue": queue
            | {
                "rate": round(self.rate, 3),
                "drain_s": self.drain_s,
                "idle_s": round(self.idle_s, 1),
            },
            "history": [asdict(minute) for minute in self.history],
        }


@dataclass(frozen=True, slots=True)
class Board:
    """All services at one instant."""

    services: dict[str, ServiceView]
    dead: Counts = field(default_factory=lambda: Counts({}))
    evicts: str = ""
    """The `maxmemory-policy` of a Redis that may throw away jobs.

    Empty where it does not, or does not say.
    """
    unknown: tuple[Seen, ...] = ()
    """What the providers answered that nobody knows, the latest first."""

    def as_json(self) -> dict[str, Any]:
        """Everything, in JSON types."""
        services = {name: view.as_json() for name, view in self.services.items()}
        unknown = [one.as_json() for one in self.unknown[:MOST_UNKNOWN]]
        return {
            "services": services,
            "dead_letters": self.dead.as_json(),
            "evicts": self.evicts,
            "unknown_answers": unknown,
        }
