"""A worker with one of the pools, and a client that knows only the names of the tasks."""

import os
import signal
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from celery import Celery

from tests.processes import ROOT, eventually, hang_up, unmeasured

AIO = "worker.aio.pool:TaskPool"
APP = "tests.workers.pools.pools_app"


@dataclass(frozen=True)
class Kind:
    """A pool, and the kind of tasks that it runs."""

    flag: str | None
    environment: dict[str, str] = field(default_factory=lambda: {"POOL_TASKS": "plain"})


KINDS = {
    "prefork": Kind("prefork"),
    "threads": Kind("threads"),
    "ours": Kind(None, {"POOL_TASKS": "async", "POOL_CLASS": AIO, "POOL_TRANSPORT": "ours"}),
    # Plain tasks, and Celery's own transport and result backend.
    "ours, plain": Kind(None, {"POOL_TASKS": "plain", "POOL_CLASS": AIO}),
}
for _name in filter(None, os.environ.get("CONFORMANCE_POOLS", "").split(",")):
    KINDS[_name] = Kind(_name)


class Pool:
    """A worker with the pool under test."""

    def __init__(self, kind: Kind, url: str, log: Path) -> None:
        self.store = redis.Redis.from_url(url, decode_responses=True)
        self.app = Celery("client", broker=url, backend=url, set_as_current=False)
        self.app.conf.task_default_queue = "pools"
        self.name = f"{uuid.uuid4().hex[:8]}@conformance"
        self.log_path = log
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            APP,
            "worker",
            "-l",
            "INFO",
            "-n",
            self.name,
        ]
        command += [
            "--without-gossip",
            "--without-mingle",
            *(["-P", kind.flag] if kind.flag else []),
        ]
        with log.open("wb") as sink:
            self.process = subprocess.Popen(
                command,
                cwd=log.parent,
                # Other pools run none of our code.
                env=(unmeasured(dict(os.environ)) if kind.flag else dict(os.environ))
                | {"POOL_REDIS_URL": url, "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"}
                | kind.environment,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def await_ready(self) -> None:
        eventually(
            lambda: " ready." in self.log or self.process.poll() is not None,
            within_s=40,
            what="the start",
        )
        assert self.process.poll() is None, self.log

    def task(self, task: str, *args: Any, **options: Any) -> Any:
        """Return a signature of one of the app's tasks."""
        return self.app.signature(f"{APP}.{task}", args=args, **options)

    def send(self, task: str, *args: Any, **options: Any) -> Any:
        """Send one of the app's tasks."""
        return self.task(task, *args).apply_async(**options)

    def journal(self, key: str) -> list[str]:
        return list(self.store.lrange(f"journal:{key}", 0, -1))

    def await_journal(self, key: str, *entries: str) -> None:
        """Wait until the journal of a key has these entries."""
        eventually(lambda: self.journal(key) == list(entries), what=f"{entries} in the journal")

    def unacknowledged(self) -> int:
        """Return how many messages are not acknowledged."""
        return int(self.store.hlen("unacked"))

    def control(self, command: str, **arguments: Any) -> Any:
        """Send the worker a remote-control command."""
        replies = self.app.control.broadcast(
            command, destination=[self.name], arguments=arguments, reply=True, timeout=10, limit=1
        )
        return replies[0][self.name]

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        # Results of broken promises outlive the server, and would look for it.
        self.app.backend.remove_pending_result = lambda result: result
        hang_up(self.app)
        self.app.close()
        self.store.close()
