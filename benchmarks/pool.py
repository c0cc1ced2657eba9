"""The asyncio pool beside Celery's own pools and the asyncio queues: `python benchmarks/pool.py`.

Every contender works off the same number of jobs on the same Redis with the same concurrency, results stored; the jobs
are in the queue before the worker starts, and the clock runs from the first job's beginning to the last one's end. The
rounds are interleaved, so that what else the machine does hits all alike: compare the ratios, not the figures. Idle,
starting and sending are not counted. The asyncio queues and gevent live in environments of their own, made on the first
run under `.tmp/bench`: they disagree about the redis client.
"""

import argparse
import contextlib
import csv
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import redis
from pool_counter import KEY
from rich.console import Console
from rich.table import Table

from sandbox.redis import EmbeddedRedis

HERE = Path(__file__).parent
ROOT = HERE.parent
RESULTS = HERE / "results"
ENVIRONMENTS = ROOT / ".tmp" / "bench"
REQUIREMENTS = {
    "arq": ("arq",),
    "saq": ("saq[redis,hiredis]", "typing-extensions"),
    "taskiq": ("taskiq", "taskiq-redis"),
    "streaq": ("streaq", "redis"),
    "gevent": ("celery[redis]>=5.7,<5.8", "redis>=8,<8.2", "gevent"),
}
REFERENCE = "keywheel"


@dataclass(frozen=True)
class Contender:
    """One queue.

    Attributes:
        name: For the table and the child.
        command: The worker's, after `python -m`; `{c}` is the concurrency.
        environment: "" for this project's own.
        most: The highest concurrency that makes sense; more threads or processes only choke.
    """

    name: str
    command: str
    environment: str = ""
    most: int = 1_000_000

    @property
    def module(self) -> str:
        """What sends the jobs."""
        return "pool_celery" if self.environment in {"", "gevent"} else "pool_peers"


_CELERY = "celery -A pool_celery worker -l WARNING --without-gossip --without-mingle --without-heartbeat -c {c}"
CONTENDERS = (
    Contender("keywheel", _CELERY),
    Contender("keywheel, stock transport", _CELERY),
    Contender("prefork", _CELERY, most=16),
    Contender("threads", _CELERY, most=200),
    Contender("gevent", _CELERY + " -P gevent", "gevent"),
    Contender("arq", "arq pool_peers.WorkerSettings", "arq"),
    Contender("saq", "saq pool_peers.settings", "saq"),
    Contender("taskiq", "taskiq worker pool_peers:broker --workers 1 --max-async-tasks {c}", "taskiq"),
    Contender("streaq", "streaq run pool_peers:worker", "streaq"),
)


@dataclass(frozen=True)
class Run:
    """One measurement.

    Attributes:
        seconds: From the first job's beginning to the last one's end.
        cpu_ms: Of all the worker's processes, each job, starting included.
        memory_mb: Resident, of all the worker's processes, at the end.
        done: Jobs done when the time was up.
    """

    seconds: float
    cpu_ms: float
    memory_mb: float
    done: int


Runs = dict[tuple[str, str], list[Run]]
"""The rounds of each contender and task."""


def interpreter(environment: str, console: Console) -> str | None:
    """Give the Python that has a contender's packages; made when it is missing, nothing where that fails."""
    if not environment:
        return sys.executable
    python = ENVIRONMENTS / environment / "bin" / "python"
    if not python.exists():
        console.print(f"making the environment of {environment} …")
        try:
            subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)  # noqa: S603
            subprocess.run(  # noqa: S603
                [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *REQUIREMENTS[environment]],
                check=True,
                timeout=300,
                stderr=subprocess.DEVNULL,
            )
        except (subprocess.SubprocessError, OSError) as exc:
            console.print(f"left out: {environment} ({exc})")
            return None
    return str(python)


def measure(
    contender: Contender, python: str, url: str, *, task: str, jobs: int, concurrency: int, limit_s: float
) -> Run:
    """Work off some jobs.

    Args:
        contender: Who.
        python: Its interpreter.
        url: The Redis, which is emptied.
        task: `noop` or `nap`.
        jobs: How many.
        concurrency: At once.
        limit_s: When to give up, in seconds.
    """
    environ = os.environ | {
        "BENCH_URL": url,
        "BENCH_KIND": contender.name,
        "BENCH_CONCURRENCY": str(concurrency),
        "PYTHONPATH": f"{HERE}{os.pathsep}{ROOT}",
    }
    with redis.Redis.from_url(url, decode_responses=True) as store, tempfile.TemporaryFile() as log:
        store.flushall()
        send = [python, "-m", contender.module, task, str(jobs)]
        subprocess.run(send, cwd=HERE, env=environ, check=True, stdout=log, stderr=log, timeout=120)  # noqa: S603
        command = [python, "-m", *contender.command.format(c=concurrency).split()]
        worker = subprocess.Popen(  # noqa: S603
            command, cwd=HERE, env=environ, stdout=log, stderr=log, start_new_session=True
        )
        try:
            deadline = time.monotonic() + limit_s
            counts: list[list[float]] = []
            while time.monotonic() < deadline and worker.poll() is None:
                counts = [[float(part) for part in text.split()] for text in store.hvals(KEY)]
                if sum(count[0] for count in counts) >= jobs:
                    break
                time.sleep(0.05)
            cpu_s, memory_mb = _use_of(os.getpgid(worker.pid)) if worker.poll() is None else (0.0, 0.0)
        finally:
            _end(worker)
        if not counts:
            log.seek(0)
            raise RuntimeError(f"{contender.name} did nothing: {log.read()[-1500:].decode(errors='replace')}")
        done = int(sum(count[0] for count in counts))
        seconds = max(count[2] for count in counts) - min(count[1] for count in counts)
        return Run(max(seconds, 0.001), 1000 * cpu_s / done, memory_mb, done)


def _use_of(group: int) -> tuple[float, float]:
    """CPU seconds and resident megabytes of a process group."""
    ticks = pages = 0
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            ticks += int(fields[11]) + int(fields[12])
            pages += int(fields[21])
    return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _end(worker: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds; the median counts (default: 3)")
    parser.add_argument("--jobs", type=int, default=5000, help="no-op jobs a round (default: 5000)")
    parser.add_argument("--concurrency", type=int, default=1000, help="of the no-op jobs (default: 1000)")
    parser.add_argument("--in-flight", type=int, default=4000, help="one-second jobs at once (default: 4000)")
    parser.add_argument("--waves", type=int, default=2, help="such jobs in all, in waves (default: 2)")
    parser.add_argument("--limit", type=float, default=45, help="seconds for one measurement (default: 45)")
    parser.add_argument("--minutes", type=float, default=12, help="no new round is begun after this (default: 12)")
    parser.add_argument("--only", default="", help="contenders, separated by commas (default: all)")
    return parser.parse_args()


def main() -> None:
    """Measure, show, write."""
    options = _options()
    console = Console()
    only = [name.strip() for name in options.only.split(",") if name.strip()]
    pythons = {}
    for contender in CONTENDERS:
        if (not only or contender.name in only) and (python := interpreter(contender.environment, console)):
            pythons[contender] = python
    runs: Runs = {}
    console.print(f"load of the machine at the start: {os.getloadavg()[0]:.1f}, {os.cpu_count()} CPUs")
    end_s = time.monotonic() + options.minutes * 60
    with EmbeddedRedis(options={"appendonly": "no"}) as server:
        for number in range(1, options.rounds + 1):
            if number > 1 and time.monotonic() > end_s:
                console.print(f"the time is up after {number - 1} rounds")
                break
            _round(console, runs, options, number=number, pythons=pythons, url=server.url)
    _show(console, runs, options)


def _round(
    console: Console, runs: Runs, options: argparse.Namespace, *, number: int, pythons: dict[Contender, str], url: str
) -> None:
    tasks = {
        "noop": (options.jobs, options.concurrency),
        "nap": (options.in_flight * options.waves, options.in_flight),
    }
    for task, (jobs, concurrency) in tasks.items():
        for contender, python in pythons.items():
            if task == "nap" and contender.most < concurrency:
                continue  # would take jobs / most seconds, which needs no measuring
            if number > 1 and runs[contender.name, task][0].done < jobs:
                continue  # gave up in the first round
            at_once = min(concurrency, contender.most)
            try:
                run = measure(contender, python, url, task=task, jobs=jobs, concurrency=at_once, limit_s=options.limit)
            except (RuntimeError, subprocess.SubprocessError) as exc:
                console.print(f"{contender.name}, {task}: {exc}")
                run = Run(options.limit, 0, 0, 0)
            runs.setdefault((contender.name, task), []).append(run)
            console.print(
                f"round {number}/{options.rounds} {task:4} {contender.name:25}"
                f" {run.done:6} jobs {run.seconds:6.2f} s {run.done / run.seconds:6.0f}/s"
                f" load {os.getloadavg()[0]:.1f}",
                highlight=False,
            )


def _show(console: Console, runs: Runs, options: argparse.Namespace) -> None:
    names = list(dict.fromkeys(name for name, _ in runs))
    rounds = max(len(several) for several in runs.values())
    table = Table(title=f"median of {rounds} interleaved rounds, results stored")
    for heading in (
        "",
        f"no-op jobs/s (c {options.concurrency})",
        "spread",
        "ratio",
        "CPU ms/job",
        f"s per wave of {options.in_flight} 1-s jobs",
        "memory MB",
    ):
        table.add_column(heading, justify="right" if heading else "left")
    rows = []
    rates = {name: [run.done / run.seconds for run in runs[name, "noop"]] for name in names}
    for name in names:
        noops, naps = runs[name, "noop"], runs.get((name, "nap"), [])
        ratios = [ours / its for ours, its in zip(rates.get(REFERENCE, []), rates[name], strict=False) if its]
        whole = [run for run in naps if run.done >= options.in_flight * options.waves]
        row = [
            name,
            f"{statistics.median(rates[name]):.0f}",
            f"{min(rates[name]):.0f} to {max(rates[name]):.0f}",
            f"{statistics.median(ratios):.2f}" if ratios else "-",
            f"{statistics.median(run.cpu_ms for run in noops):.2f}",
            f"{statistics.median(run.seconds for run in whole) / options.waves:.2f}" if whole else "-",
            f"{statistics.median(run.memory_mb for run in whole):.0f}" if whole else "-",
        ]
        rows.append(row)
        table.add_row(*row)
    console.print(table)
    console.print(f"ratio: how many times as many no-op jobs a second {REFERENCE} does, median of the rounds' ratios")
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "pool.csv").open("w", newline="") as sink:
        writer = csv.writer(sink)
        writer.writerow(["contender", "task", "round", "jobs", "seconds", "cpu_ms_per_job", "memory_mb"])
        for (name, task), several in runs.items():
            for number, run in enumerate(several, 1):
                writer.writerow(
                    [name, task, number, run.done, f"{run.seconds:.3f}", f"{run.cpu_ms:.3f}", f"{run.memory_mb:.1f}"]
                )
    console.print(f"written: {RESULTS / 'pool.csv'}")
    _plot(console, {name: statistics.median(rates[name]) for name in names})


def _plot(console: Console, rates: dict[str, float]) -> None:
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - optional
    except ImportError:
        return
    figure = Figure(figsize=(8, 0.5 * len(rates) + 1))
    axes = figure.subplots()
    names = sorted(rates, key=lambda name: rates[name])
    axes.barh(names, [rates[name] for name in names])
    axes.set_xlabel("no-op jobs a second, results stored")
    figure.tight_layout()
    figure.savefig(RESULTS / "pool.png")
    console.print(f"written: {RESULTS / 'pool.png'}")


if __name__ == "__main__":
    main()
