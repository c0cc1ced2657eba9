"""Real workers of the test app."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.processes import ROOT, await_end, eventually, hang_up

APP = "tests.workers.aio.aio_app"


class WorkerProcess:
    """A worker of the test app, with its own queue.

    It starts a second sooner because it runs without gossip and mingle.
    """

    def __init__(
        self, url: str, log: Path, *arguments: str, greets: bool = False, **environment: str
    ) -> None:
        self.queue = environment.setdefault("AIO_QUEUE", f"q{uuid.uuid4().hex[:8]}")
        self.name = f"{self.queue}@test"
        self.log_path = log
        command = [sys.executable, "-m", "tests.workers.aio.aio_worker"]
        command += ["-l", "INFO", "-n", self.name]
        command += arguments if greets else ["--without-gossip", "--without-mingle", *arguments]
        with log.open("wb") as sink:
            self.process = subprocess.Popen(
                command,
                cwd=log.parent,
                env={
                    **os.environ,
                    "AIO_REDIS_URL": url,
                    "PYTHONPATH": str(ROOT),
                    "PYTHONFAULTHANDLER": "1",
                    **environment,
                },
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def await_ready(self) -> "WorkerProcess":
        eventually(
            lambda: " ready." in self.log or self.process.poll() is not None,
            within_s=30,
            what="the start",
        )
        assert self.process.poll() is None, self.log
        return self

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def await_exit(self, *, within_s: float = 20.0) -> int:
        try:
            return await_end(self.process, within_s=within_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the worker did not end within {within_s} s:\n{self.log[-6000:]}")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextmanager
def worker_processes(
    url: str, new_folder: Callable[[], Path]
) -> Iterator[Callable[..., WorkerProcess]]:
    """Yield a function that starts workers; all of them end with the block."""
    workers: list[WorkerProcess] = []

    def start(*arguments: str, ready: bool = True, **environment: str) -> WorkerProcess:
        worker = WorkerProcess(url, new_folder() / "worker.log", *arguments, **environment)
        workers.append(worker)
        return worker.await_ready() if ready else worker

    yield start
    for worker in workers:
        if worker.process.poll() is None:
            worker.signal(signal.SIGTERM)
    for worker in workers:
        try:
            worker.process.wait(10)
        except subprocess.TimeoutExpired:
            worker.close()


def cut_connections(aio: ModuleType, store: Any) -> None:
    """Make the server close all connections at once, except those of the journal."""
    with store.pipeline() as pipe:
        for client in store.client_list():
            if client["name"] != aio.JOURNAL:
                pipe.execute_command("CLIENT", "KILL", "ID", client["id"], "SKIPME", "yes")
        pipe.execute()
    hang_up(aio.app)  # our own connections were cut as well
