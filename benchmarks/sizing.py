"""Measures what one Redis can serve: `python -m benchmarks.sizing measure | simulate`.

`measure` runs growing numbers of real workers, idle (with and without Flower) and at a steady rate.
It reports the load of Redis for each worker and each job. If such a figure grows with the number of
workers, the traffic grows with its square. It also reports the memory of a waiting job and of a
result. `simulate` applies these figures to a day, minute by minute: by default to a million jobs
and 1,000 workers.
"""

import argparse
import contextlib
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from benchmarks.cost import LATENCY_MS, Bench, Producer
from benchmarks.cost_cases import Case
from sandbox.process import Sandbox
from sandbox.redis import EmbeddedRedis, free_port

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results")
_SETTLES_S = 6.0
_RATE = 20.0
_MANY = 5_000
_DAY_MIN = 1_440
_WIDE = {"groq_rpd": 0, "groq_tpm": 0, "groq_tpd": 0, "groq_rpm": 60_000}
_FLOWER_READY_S = 30.0
_BUSY = 0.7
"""The highest share of a core that Redis should use."""


@dataclass(frozen=True)
class Meter:
    """The counters of Redis at an instant."""

    at_s: float
    commands: int
    net_in: int
    net_out: int
    cpu_s: float
    clients: int

    @classmethod
    def read(cls, store: "redis.Redis") -> "Meter":
        """Read the counters."""
        info: dict[str, Any] = store.info()  # type: ignore[assignment]
        return cls(
            time.monotonic(),
            info["total_commands_processed"],
            info["total_net_input_bytes"],
            info["total_net_output_bytes"],
            info["used_cpu_user"] + info["used_cpu_sys"],
            info["connected_clients"],
        )

    def since(self, before: "Meter") -> dict[str, float]:
        """The rates since an earlier reading, per second."""
        seconds = self.at_s - before.at_s
        return {
            "commands": (self.commands - before.commands) / seconds,
            "in_kb": (self.net_in - before.net_in) / seconds / 1_000,
            "out_kb": (self.net_out - before.net_out) / seconds / 1_000,
            "redis_ms": (self.cpu_s - before.cpu_s) / seconds * 1_000,
            "connections": float(self.clients - 1),
        }


@contextlib.contextmanager
def flower(folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """Run Flower until the block ends."""
    log = folder / "flower.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "worker", "flower"],
            cwd=folder, env=environment | {"FLOWER_PORT": str(free_port())}, stdout=sink,
            stderr=sink, start_new_session=True,
        )  # fmt: skip
    try:
        deadline_s = time.monotonic() + _FLOWER_READY_S
        while b"Visit me at" not in log.read_bytes():
            if time.monotonic() > deadline_s or process.poll() is not None:
                raise RuntimeError(log.read_text(errors="replace")[-2000:])
            time.sleep(0.2)
        yield
    finally:
        process.kill()
        process.wait()


def measure_workers(
    workers: int, *, rate: float, seconds: float, watched: bool
) -> dict[str, float]:
    """Measure Redis under some workers.

    Args:
        workers: The number of workers.
        rate: Completions a second, of all workers together.
        seconds: The duration of the measurement.
        watched: Whether Flower runs, too.

    Returns:
        The figures by name: for each second and, if jobs come, for each job.
    """
    case = Case("", processes=workers, rate=rate, sandbox=_WIDE)
    with (
        tempfile.TemporaryDirectory(prefix="keywheel-sizing-") as name,
        EmbeddedRedis(data_dir=Path(name) / "redis") as server,
        Sandbox(groq_latency_ms=LATENCY_MS, **case.sandbox) as sandbox,
        redis.Redis.from_url(server.url) as store,
        contextlib.ExitStack() as stack,
    ):
        environment = (
            dict(os.environ)
            | sandbox.env()
            | {
                "REDIS_URL": server.url,
                "PYTHONPATH": str(ROOT),
                "KEYWHEEL_GROQ_LIMITS": "rpm=60000",
            }
        )
        producer, bench = (
            Producer(server.url, "completion"),
            Bench(case, sandbox, store, Path(name)),
        )
        stack.enter_context(bench.workers(environment))
        if watched:
            stack.enter_context(flower(Path(name), environment))
        over = threading.Event()
        pouring = threading.Thread(target=producer.pour, args=(rate, over))
        if rate:
            pouring.start()
        try:
            time.sleep(_SETTLES_S)
            before, spent = Meter.read(store), bench.spent()
            time.sleep(seconds)
            after, last = Meter.read(store), bench.spent()
        finally:
            over.set()
            if rate:
                pouring.join()
    values = after.since(before)
    span_s = after.at_s - before.at_s
    values["worker_cpu_ms"] = (last.cpu_s - spent.cpu_s) / span_s * 1_000
    values["worker_mb"] = last.memory_mb / workers
    if done := last.done - spent.done:
        values["jobs_a_s"] = done / span_s
        values |= {
            f"{name}_a_job": values[name] * span_s / done
            for name in ("commands", "in_kb", "out_kb", "redis_ms", "worker_cpu_ms")
        }
    return values


def measure_memory() -> dict[str, float]:
    """The memory in Redis of a waiting completion and of a waiting email, in bytes."""
    sizes = {}
    with tempfile.TemporaryDirectory() as name, EmbeddedRedis(data_dir=Path(name)) as server:
        store = redis.Redis.from_url(server.url)
        for kind in ("completion", "email"):
            before: dict[str, Any] = store.info("memory")  # type: ignore[assignment]
            Producer(server.url, kind).send(_MANY)
            after: dict[str, Any] = store.info("memory")  # type: ignore[assignment]
            sizes[f"waiting_{kind}_b"] = (after["used_memory"] - before["used_memory"]) / _MANY
    return sizes


def show(words: str, values: dict[str, float]) -> None:
    """Print one line of figures."""
    print(f"{words:<28}" + ", ".join(f"{name} {value:.2f}" for name, value in values.items()),
        flush=True)  # fmt: skip


def measure(args: argparse.Namespace) -> int:
    """Measure, print and save the figures."""
    results: dict[str, Any] = {}
    for watched in (False, True):
        for workers in args.workers if "idle" in args.only else ():
            name = f"idle, {workers} workers{', Flower' if watched else ''}"
            results[name] = measure_workers(workers, rate=0, seconds=args.seconds, watched=watched)
            show(name, results[name])
    for workers in args.workers if "busy" in args.only else ():
        name = f"{args.rate:g} jobs/s, {workers} workers"
        results[name] = measure_workers(
            workers, rate=args.rate, seconds=args.seconds, watched=False
        )
        show(name, results[name])
    results["memory"] = measure_memory()
    show("memory", results["memory"])
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"sizing-{time.strftime('%Y%m%d-%H%M%S')}.json").write_text(
        json.dumps(results, indent=1)
    )
    return 0


@dataclass(frozen=True)
class Costs:
    """The results of `measure`, as docs/sizing.md states them; the command line may change them.

    Attributes:
        idle_redis_ms: CPU time of Redis for an idle worker, each second.
        idle_commands: Commands for an idle worker, each second.
        watched_out_kb: What Redis sends each second because Flower queries each worker.
        connections: Connections of a worker.
        job_redis_ms: CPU time of Redis for a job that comes alone.
        job_commands: Commands for a job that comes alone.
        job_out_kb: What Redis sends for a job that comes alone.
        look_redis_ms: CPU time of Redis each time that a worker polls for a job and gets none.
        look_commands: Commands for such a poll.
        looks: How often an idle worker polls in vain for each job of other workers, at most.
        all_looks: How often all workers together poll in vain each second, at most.
        job_worker_ms: CPU time of a worker for a job that comes alone.
        waiting_b: Memory in Redis of a waiting job, in bytes.
        result_b: Memory in Redis of a result, in bytes.
    """

    idle_redis_ms: float = 0.2
    idle_commands: float = 5.3
    watched_out_kb: float = 1.7
    connections: float = 9.0
    job_redis_ms: float = 1.0
    job_commands: float = 42.0
    job_out_kb: float = 1.4
    look_redis_ms: float = 0.05
    look_commands: float = 3.3
    looks: float = 1.0
    all_looks: float = 1_000.0
    job_worker_ms: float = 4.2
    waiting_b: float = 1_150.0
    result_b: float = 980.0


def load_of(minute: int, *, mean: float, peak: float) -> float:
    """The number of jobs in a minute of the day: few at night, `peak` times the mean at noon."""
    share = 35 / 128  # the mean of the eighth power of a sine
    low = max(0.0, (1 - share * peak) / (1 - share))
    return mean * (low + (peak - low) * math.sin(math.pi * (minute % _DAY_MIN) / _DAY_MIN) ** 8)


def simulate(args: argparse.Namespace) -> int:
    """Simulate two days, minute by minute: the first one fills the store of results."""
    costs = Costs(**{name: getattr(args, name) for name in Costs.__dataclass_fields__})
    rng = random.Random(1)  # noqa: S311 - chance, no secret
    backlog, results, total = 0.0, 0.0, 0.0
    kept: list[float] = []
    peaks: dict[str, float] = {}
    by_keys = args.keys * args.rpm
    by_workers = args.workers * 60_000 / costs.job_worker_ms * _BUSY
    for minute in range(2 * _DAY_MIN):
        mean = load_of(minute, mean=args.jobs / _DAY_MIN, peak=args.peak)
        backlog += max(0.0, rng.gauss(mean, math.sqrt(mean)))
        served = min(backlog, by_keys, by_workers)
        backlog -= served
        kept.append(served)
        results += served - (kept[minute - _DAY_MIN] if minute >= _DAY_MIN else 0.0)
        if minute < _DAY_MIN:
            continue
        total += served
        seen = state_of(costs, args.workers, a_s=served / 60, backlog=backlog, results=results)
        peaks = {name: max(peaks.get(name, 0.0), value) for name, value in seen.items()}
    print(f"{args.workers} workers, {args.jobs:,.0f} jobs a day, peak {args.peak:g} times the mean")
    print(f"  {total:,.0f} served, {args.workers * costs.connections:,.0f} connections; at most:")
    for name, value in peaks.items():
        print(f"  {name:>20}  {value:,.2f}")
    return 0


def state_of(
    costs: Costs, workers: int, *, a_s: float, backlog: float, results: float
) -> dict[str, float]:
    """Return the load of Redis and of the workers at a rate.

    Args:
        costs: The costs of each job and worker.
        workers: The number of workers.
        a_s: The jobs that are served each second.
        backlog: The number of waiting jobs.
        results: The number of stored results.
    """
    busy = min(workers, a_s * costs.job_worker_ms / 1_000 / _BUSY)
    looks = min((workers - busy) * a_s * costs.looks, costs.all_looks)
    return {
        "jobs a second": a_s,
        "jobs that wait": backlog,
        "Redis, cores": (
            workers * costs.idle_redis_ms + a_s * costs.job_redis_ms + looks * costs.look_redis_ms
        )
        / 1_000,
        "commands a second": (
            workers * costs.idle_commands + a_s * costs.job_commands + looks * costs.look_commands
        ),
        "Redis sends, MB/s": (workers * costs.watched_out_kb + a_s * costs.job_out_kb) / 1_000,
        "Redis holds, MB": (backlog * costs.waiting_b + results * costs.result_b) / 1e6,
        "workers, cores": a_s * costs.job_worker_ms / 1_000,
    }


def main() -> int:
    """Parse the command line and run its command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    first = commands.add_parser("measure", help="real workers")
    first.set_defaults(act=measure)
    first.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="how many")
    first.add_argument("--seconds", type=float, default=15, help="length of each window")
    first.add_argument("--only", nargs="+", choices=["idle", "busy"], default=["idle", "busy"])
    first.add_argument("--rate", type=float, default=_RATE, help="completions a second")
    second = commands.add_parser("simulate", help="compute a day from the figures of `measure`")
    second.set_defaults(act=simulate)
    second.add_argument("--workers", type=int, default=1_000)
    second.add_argument("--jobs", type=float, default=1e6, help="jobs a day")
    second.add_argument("--peak", type=float, default=3, help="the busiest minute over the mean")
    second.add_argument("--keys", type=int, default=10, help="accounts")
    second.add_argument("--rpm", type=float, default=1_000, help="calls a minute of each account")
    for name, field in Costs.__dataclass_fields__.items():
        second.add_argument(f"--{name.replace('_', '-')}", type=float, default=field.default)
    args = parser.parse_args()
    return int(args.act(args))


if __name__ == "__main__":
    sys.exit(main())
