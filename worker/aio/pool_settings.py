"""Reads the settings of the pool, which are optional settings of the Celery app."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from celery.exceptions import ImproperlyConfigured

_WITHOUT_MEANING = {
    "maxtasksperchild": "worker_max_tasks_per_child",
    "max_memory_per_child": "worker_max_memory_per_child",
}


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """The settings of one pool. In the app's configuration their names begin with `worker_aio_`.

    Attributes:
        loop: "auto" (uvloop if it is installed), "uvloop" or "asyncio".
        threads: The most threads for plain `def` tasks; threads start when they are needed. The
            concurrency does not limit this number, because autoscale begins with its minimum.
        blocked_ms: A task that blocks the loop for longer is named in a warning; 0: never.
        cold_s: How long a cold shutdown waits for cancelled jobs, in seconds.
        lost_runs: A job fails after this number of runs that were lost with their worker; 0: never.
        lost_pause_s: How long a job waits after its first lost run before it goes back to its
            queue, in seconds. The pause doubles each time. Prefork needs about a second as well, to
            start a process.
        gc_objects: New objects between two garbage collections; 0 keeps Python's thresholds. With
            Python's 700, a worker with thousands of jobs in flight spends a third of its time on
            garbage collection.
    """

    loop: str = "auto"
    threads: int = 16
    blocked_ms: float = 250
    cold_s: float = 5.0
    lost_runs: int = 5
    lost_pause_s: float = 1.0
    gc_objects: int = 50_000

    @classmethod
    def of(cls, options: Mapping[str, Any], conf: Mapping[str, Any]) -> Self:
        """Read the settings.

        Args:
            options: The pool's options, which override the configuration; their names begin with
                `aio_`.
            conf: The app's configuration.

        Raises:
            ImproperlyConfigured: A setting asks for something that this pool cannot do.
        """
        for option, setting in _WITHOUT_MEANING.items():
            if options.get(option):
                raise ImproperlyConfigured(
                    f"{setting} has no meaning for the asyncio pool, which has no child "
                    "processes: unset it, and let your process manager restart the worker if that "
                    "is needed"
                )
        values = {}
        for field in fields(cls):
            name = f"aio_{field.name}"
            value = options[name] if name in options else conf.get(f"worker_{name}")
            if value is not None:
                values[field.name] = value
        return cls(**values)
