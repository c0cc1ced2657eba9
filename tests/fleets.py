"""Workers with their Redis, their providers and a producer."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from sandbox.process import Sandbox
from sandbox.redis import EmbeddedRedis
from tests.processes import Producer, Worker, workers

WIDE_LIMITS = {
    "groq_rpm": 60_000, "groq_rpd": 0, "groq_tpm": 0, "groq_tpd": 0,
    "resend_rps": 100, "resend_daily": 0, "resend_monthly": 0,
}  # fmt: skip
"""Options of a sandbox whose limits no test reaches; 0 means no limit."""


@dataclass
class Stack:
    """A worker with its Redis and its providers, shared by the tests of the package."""

    redis_url: str
    sandbox: Sandbox
    environ: dict[str, str]
    worker: Worker
    producer: Producer
    folder: Path


@dataclass
class Fleet:
    """Several workers with their Redis and their providers."""

    redis: EmbeddedRedis
    sandbox: Sandbox
    environ: dict[str, str]
    workers: list[Worker]
    producer: Producer
    folder: Path

    @property
    def logs(self) -> str:
        return "".join(worker.log for worker in self.workers)


StartFleet = Callable[..., Fleet]


@contextmanager
def fleets(new_folder: Callable[[], Path]) -> Iterator[StartFleet]:
    """Yield a function that starts a Redis, a sandbox and workers; all of them end with the block.

    The function takes `settings` for the workers, the number of workers (`count`), a `password`
    for Redis, options for Redis (`redis_options`), and options for the sandbox.
    """
    with ExitStack() as stack:

        def start(
            *,
            settings: dict[str, str] | None = None,
            count: int = 2,
            password: str = "",
            redis_options: dict[str, str] | None = None,
            **options: Any,
        ) -> Fleet:
            folder = new_folder()
            server = stack.enter_context(
                EmbeddedRedis(data_dir=folder / "redis", options=redis_options)
            )
            sandbox = stack.enter_context(Sandbox(**options))
            url = server.url
            if password:
                url = url.replace("redis://", f"redis://:{password}@")
                with redis.Redis(port=server.port) as client:
                    client.config_set("requirepass", password)
            environ = sandbox.env() | {"REDIS_URL": url} | (settings or {})
            producer = Producer(url)
            stack.callback(producer.close)
            started = stack.enter_context(workers(folder, environ, count=count))
            return Fleet(server, sandbox, environ, started, producer, folder)

        yield start
