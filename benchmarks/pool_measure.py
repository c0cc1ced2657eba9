"""Measures one queue: its worker, its jobs, and the time and memory that they use."""

import contextlib
import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import redis

from benchmarks.environments import ROOT
from benchmarks.pool_contenders import Contender
from benchmarks.pool_counter import COUNTS, LAGS

_STEP_S = 0.05
_SEND_LIMIT_S = 120


@dataclass(frozen=True)
class Run:
    """The figures of a number of jobs.

    Attributes:
        seconds: The time from the beginning of the first job to the end of the last one.
        cpu_ms: The CPU time of all processes of the worker for each job, from the first job done.
        done: The jobs done when the time was over.
    """

    seconds: float
    cpu_ms: float
    done: int

    @property
    def rate(self) -> float:
        """Jobs a second."""
        return self.done / self.seconds


@dataclass(frozen=True)
class QuietFigures:
    """The figures of a worker that has little to do at first, and then many jobs in flight.

    Attributes:
        lag_ms: At light load, the median time from the call that sends a job to its beginning.
        send_ms: The part of it that the call takes.
        idle_mb: Resident memory of all processes of the worker, after one job.
        job_kb: Additional memory for each job in flight; None if that concurrency is not possible.
    """

    lag_ms: float
    send_ms: float
    idle_mb: float
    job_kb: float | None


class Bench:
    """One contender with a Redis of its own, which is emptied before each measurement."""

    def __init__(
        self, contender: Contender, python: str, url: str, *, concurrency: int, nap_s: float = 1.0
    ) -> None:
        self._contender = contender
        self._python = python
        self._command = [python, "-m", *contender.command.format(c=concurrency).split()]
        self._environ = os.environ | {
            "BENCH_URL": url,
            "BENCH_KIND": contender.name,
            "BENCH_CONCURRENCY": str(concurrency),
            "BENCH_NAP_S": str(nap_s),
            "PYTHONPATH": str(ROOT),
        }
        self._store: Any = redis.Redis.from_url(url, decode_responses=True)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed at the exit

    def __enter__(self) -> Self:
        self._store.flushall()
        return self

    def __exit__(self, *_: object) -> None:
        self._store.close()
        self._log.close()

    def work_off(self, task: str, jobs: int, *, limit_s: float) -> Run:
        """Send the jobs, start a worker, and wait until all jobs are done or the time is over."""
        self._send(task, jobs)
        with self._worker() as worker:
            first: tuple[float, float] | None = None
            deadline_s = time.monotonic() + limit_s
            while (
                (done := self._counted(0)) < jobs
                and time.monotonic() < deadline_s
                and worker.poll() is None
            ):
                if done and first is None:
                    first = use_of(worker)[0], done
                time.sleep(_STEP_S)
            cpu_s, _ = use_of(worker)
        counts = self._counts()
        if not counts:
            raise RuntimeError(f"{self._contender.name} did nothing: {self._tail()}")
        seconds = max(count[3] for count in counts) - min(count[2] for count in counts)
        cpu_before_s, done_before = first or (0.0, 0.0)
        if done_before >= done:  # all jobs were done between two samples
            cpu_before_s, done_before = 0.0, 0.0
        return Run(
            max(seconds, 0.001),
            1000 * (cpu_s - cpu_before_s) / max(done - done_before, 1),
            int(done),
        )

    def measure_quiet(self, *, jobs: int, in_flight: int, limit_s: float) -> QuietFigures:
        """Start a worker, send it a few jobs one by one, then many long jobs at once."""
        with self._worker() as worker:
            self._send("noop", 1)
            self._await(0, 1, limit_s=limit_s)
            time.sleep(0.5)
            _, idle_mb = use_of(worker)
            send_s = float(self._send("lag", jobs).split()[-1])
            self._await(0, jobs + 1, limit_s=limit_s)
            time.sleep(4 * _STEP_S)  # until the last jobs are reported
            lags = [float(text) for text in self._store.lrange(LAGS, 0, -1)]
            _, before_mb = use_of(worker)
            job_kb = None
            if in_flight:
                self._send("nap", in_flight)
                if self._await(1, jobs + 1 + in_flight, limit_s=limit_s):
                    job_kb = (use_of(worker)[1] - before_mb) * 1000 / in_flight
        if not lags:
            raise RuntimeError(f"{self._contender.name} did nothing: {self._tail()}")
        return QuietFigures(1000 * statistics.median(lags), 1000 * send_s, idle_mb, job_kb)

    def _send(self, task: str, jobs: int) -> bytes:
        command = [self._python, "-m", self._contender.module, task, str(jobs)]
        sent = subprocess.run(  # noqa: S603
            command,
            cwd=ROOT,
            env=self._environ,
            check=True,
            stdout=subprocess.PIPE,
            stderr=self._log,
            timeout=_SEND_LIMIT_S,
        )
        return sent.stdout

    @contextlib.contextmanager
    def _worker(self) -> "Iterator[subprocess.Popen[bytes]]":
        worker = subprocess.Popen(  # noqa: S603
            self._command,
            cwd=ROOT,
            env=self._environ,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        try:
            yield worker
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()

    def _counts(self) -> list[list[float]]:
        return [[float(part) for part in text.split()] for text in self._store.hvals(COUNTS)]

    def _counted(self, column: int) -> float:
        return sum(count[column] for count in self._counts())

    def _await(self, column: int, jobs: int, *, limit_s: float) -> bool:
        deadline_s = time.monotonic() + limit_s
        while self._counted(column) < jobs:
            if time.monotonic() > deadline_s:
                return False
            time.sleep(_STEP_S)
        return True

    def _tail(self) -> str:
        self._log.seek(0)
        return self._log.read()[-1500:].decode(errors="replace")


def use_of(worker: "subprocess.Popen[bytes]") -> tuple[float, float]:
    """CPU seconds and resident megabytes of all processes of a worker."""
    ticks = pages = 0
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == worker.pid:  # the process group
            ticks += int(fields[11]) + int(fields[12])
            pages += int(fields[21])
    return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE") / 1e6
