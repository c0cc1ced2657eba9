"""The contenders of the pool's benchmark."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Contender:
    """One queue.

    Attributes:
        name: The name for the table and the child process.
        command: The worker's command, after `python -m`; `{c}` is the concurrency.
        environment: The environment with its packages.
        most: The highest useful concurrency; more threads or processes only slow it down.
    """

    name: str
    command: str
    environment: str
    most: int = 1_000_000

    @property
    def module(self) -> str:
        """The module that sends the jobs."""
        is_celery = self.environment in {"celery", "gevent"}
        return "benchmarks.pool_celery" if is_celery else "benchmarks.pool_peers"


_CELERY = (
    "celery -A benchmarks.pool_celery worker -l WARNING --without-gossip --without-mingle "
    "--without-heartbeat -c {c}"
)
REFERENCE = "keywheel"
CONTENDERS = (
    Contender(REFERENCE, _CELERY, "celery"),
    Contender(f"{REFERENCE} by Sender", _CELERY, "celery"),
    Contender("keywheel, stock transport", _CELERY, "celery"),
    Contender("prefork", _CELERY, "celery", most=16),
    Contender("threads", _CELERY, "celery", most=200),
    Contender("gevent", _CELERY + " -P gevent", "gevent"),
    Contender("arq", "arq benchmarks.pool_peers.WorkerSettings", "arq"),
    Contender("saq", "saq benchmarks.pool_peers.settings", "saq"),
    Contender(
        "taskiq",
        "taskiq worker benchmarks.pool_peers:broker --workers 1 --max-async-tasks {c}",
        "taskiq",
    ),
    Contender("streaq", "streaq run benchmarks.pool_peers:worker", "streaq"),
)
