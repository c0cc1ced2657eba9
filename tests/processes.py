"""Real worker processes, the command line, and a producer that imports nothing of ours."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.backends.base import DisabledBackend
from celery.result import AsyncResult

from tests.tuned import VARIABLE

ROOT = Path(__file__).resolve().parent.parent
READY_S = 40.0
EXIT_S = 30.0
SPACED = "gsk_spaced canary9f3a0123456789012345678901234567890123"
"""A key that no header can hold, configured beside the good ones."""


def eventually(
    check: Callable[[], Any],
    *,
    within_s: float = 20.0,
    what: str | Callable[[], str] = "the condition",
) -> Any:
    """Poll until `check` returns something true, and return that.

    `what` names the condition if it does not come true; a function can add the state at that time.
    """
    deadline = time.monotonic() + within_s
    while not (value := check()):
        if time.monotonic() > deadline:
            words = what() if callable(what) else what
            pytest.fail(f"{words} did not come true within {within_s} s")
        time.sleep(0.05)
    return value


def inspected(app: Any, name: str, method: str) -> Any:
    """Inspect a worker as `celery inspect` does, and repeat the command until it replies.

    A worker subscribes to commands just after it logs "ready".
    """
    inspect = app.control.inspect([name], timeout=5)  # ends as soon as this worker has replied
    return eventually(getattr(inspect, method), what=f"an answer to {method}")[name]


def collect_results() -> None:
    """Have results unsubscribe, as they do when they are collected: that needs a running server.

    What earlier tests of the process have left open is collected as well, and must not fail the
    test that happens to call this.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def hang_up(app: Celery) -> None:
    """Close the connections of an app that `Celery.close` leaves open.

    The app connects again when it needs to.
    """
    for pool in (app.amqp.producer_pool, app.pool):
        pool.force_close_all(close_pool=False)
        pool.setup()
    if not isinstance(app.backend, DisabledBackend):
        app.backend.client.connection_pool.disconnect()
    app._after_fork()  # the app's subscriptions are gone as well


def environment(**changes: str) -> dict[str, str]:
    """The environment variables of this process, with which workers start in any folder."""
    quiet = {"KEYWHEEL_CHECK_KEYS_S": "0"}  # the checks would be among the calls that tests count
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "COLUMNS": "220",
        **quiet,
        **changes,
    }


def await_end(process: subprocess.Popen[Any], *, within_s: float) -> int:
    """Wait until a process has ended. A process that hangs is aborted.

    If it has `PYTHONFAULTHANDLER`, it then writes the stacks of its threads.

    Raises:
        subprocess.TimeoutExpired: The process hung.
    """
    try:
        return process.wait(within_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        process.wait(within_s)
        raise


def unmeasured(environ: dict[str, str]) -> dict[str, str]:
    """Return `environ` without coverage, whose tracer may spin for ever when threads end."""
    return {name: value for name, value in environ.items() if name != "COVERAGE_PROCESS_CONFIG"}


CELERY = ("celery", "-A", "worker", "worker")
ALONE = ("worker",)
"""The modules that start a worker, with their arguments."""


class Worker:
    """A worker in a folder without a `.env`; it is stopped with its process group.

    `python -m worker` starts in four fifths of the time of `celery -A worker worker`. Times that
    no setting controls come from `tuned(...)` in its environment.
    """

    def __init__(
        self,
        folder: Path,
        environ: dict[str, str],
        *arguments: str,
        name: str = "w1",
        command: tuple[str, ...] = ALONE,
        stdout: str = "",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        if VARIABLE in environ:
            command = ("tests.tuned", *command)
        self.name = f"{name}@test"
        self.log_path = folder / f"{name}.log"
        with self.log_path.open("wb") as sink, Path(stdout or self.log_path).open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command, "-n", self.name, *arguments],
                cwd=folder,
                env=environment(**environ),
                stdout=out if stdout else sink,
                stderr=sink,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def await_ready(self) -> "Worker":
        self.await_log(" ready.", within_s=READY_S)
        return self

    def await_log(self, text: str, *, within_s: float = 20.0) -> None:
        eventually(
            lambda: text in self.log or self.process.poll() is not None,
            within_s=within_s,
            what=f"{text!r} in the log",
        )
        assert text in self.log, self.log[-3000:]

    def await_exit(self, *, within_s: float = EXIT_S) -> int:
        try:
            return await_end(self.process, within_s=within_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"the worker did not end within {within_s} s:\n{self.log[-9000:]}")

    def stop(self) -> None:
        """Ask the worker to end, and check that it does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.await_exit()

    def kill(self) -> None:
        """Kill the worker as an out-of-memory killer would."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@contextmanager
def workers(folder: Path, environ: dict[str, str], *, count: int = 1) -> Iterator[list[Worker]]:
    """Start workers and yield them once they are ready; they end with the block."""
    started = [Worker(folder, environ, name=f"w{number}") for number in range(1, count + 1)]
    try:
        for worker in started:
            worker.await_ready()
        yield started
    finally:
        for worker in started:
            if worker.process.poll() is None:
                worker.process.send_signal(signal.SIGTERM)
        for worker in started:
            worker.stop()


def run_python(
    folder: Path, environ: dict[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run `python …` and wait until it has ended."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(**environ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def run_celery(
    folder: Path, environ: dict[str, str], *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run `celery -A worker …` and wait until it has ended."""
    folder.mkdir(parents=True, exist_ok=True)
    return run_python(folder, environ, "-m", "celery", "-A", "worker", *arguments)


class Producer:
    """Does what a web application does: sends jobs by name and reads their results."""

    def __init__(self, url: str, **conf: Any) -> None:
        self.app = Celery("producer", broker=url, backend=url, set_as_current=False)
        # Without a backend the producer subscribes to no result. That is quicker, and it loses
        # nothing if Redis goes down.
        self.sender = Celery("sender", broker=url, set_as_current=False)
        for app in (self.app, self.sender):
            app.conf.update(conf)

    def send(self, name: str, queue: str = "", **kwargs: Any) -> AsyncResult:
        sent = self.sender.send_task(name, kwargs=kwargs, queue=queue or name.split(".")[1])
        return self.app.AsyncResult(sent.id)

    def ask(self, name: str, *, within_s: float = 20.0, **kwargs: Any) -> Any:
        return self.outcome(self.send(name, **kwargs), within_s=within_s)

    def outcome(self, result: AsyncResult, *, within_s: float = 20.0) -> Any:
        """The result of a job, or its error as an object."""
        eventually(result.ready, within_s=within_s, what=f"the end of {result.id}")
        return result.result

    def many(self, name: str, arguments: list[dict[str, Any]]) -> list[str]:
        """Send many jobs quickly; return their ids."""
        queue = name.split(".")[1]
        with self.sender.producer_pool.acquire(block=True) as channel:
            return [
                self.sender.send_task(name, kwargs=kwargs, queue=queue, producer=channel).id
                for kwargs in arguments
            ]

    def pour(
        self, name: str, *, rate: float, seconds: float, arguments: Callable[[int], dict[str, Any]]
    ) -> list[str]:
        """Send `rate` jobs a second for a while; return their ids."""
        ids: list[str] = []
        started = time.monotonic()
        while (now := time.monotonic() - started) < seconds or len(ids) < rate * seconds:
            due = int(min(now, seconds) * rate)
            ids += self.many(name, [arguments(number) for number in range(len(ids), due)])
            time.sleep(0.02)
        return ids

    def states(self, ids: list[str]) -> dict[str, dict[str, Any]]:
        """Read these jobs from the result store, in few round trips: id → state, result."""
        backend, metas = self.app.backend, {}
        for first in range(0, len(ids), 1000):
            part = ids[first : first + 1000]
            raw = backend.client.mget([backend.get_key_for_task(job) for job in part])
            metas |= {job: json.loads(text) for job, text in zip(part, raw, strict=True) if text}
        return metas

    def await_all(self, ids: list[str], *, within_s: float) -> dict[str, dict[str, Any]]:
        """Wait until every job has ended."""
        ended: dict[str, dict[str, Any]] = {}

        def all_ended() -> bool:
            left = [job for job in ids if job not in ended]
            ended.update(
                {job: meta for job, meta in self.states(left).items() if meta["status"] in _ENDED}
            )
            return len(ended) == len(ids)

        deadline = time.monotonic() + within_s
        while not all_ended():
            if time.monotonic() > deadline:
                pytest.fail(
                    f"{len(ids) - len(ended)} of {len(ids)} jobs have not ended within {within_s} s"
                )
            time.sleep(0.25)
        return ended

    def close(self) -> None:
        collect_results()
        for app in (self.app, self.sender):
            hang_up(app)
            app.close()


_ENDED = {"SUCCESS", "FAILURE", "REVOKED"}
