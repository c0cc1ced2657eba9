"""What one Redis carries: `python benchmarks/sizing.py measure | simulate`.

`measure` runs real workers, idle (alone, and with Flower) and at a steady rate, in growing numbers,
and reports what Redis does for each worker and each job: a number that grows with the number of
workers shows traffic that grows with its square. It also reports the memory of a waiting job and of
a result. `simulate` takes these figures through a day, minute by minute: by default a million jobs
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
from cost import LATENCY_MS, Bench, Case, Producer

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


@dataclass(frozen=True)
class Meter:
    """What Redis had done up to an instant."""

    at_s: float
    commands: int
    net_in: int
    net_out: int
    cpu_s: float
    clients: int

    @classmethod
    def read(cls, store: "redis.Redis") -> "Meter":
        """Read it."""
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
        """What happened a second."""
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
        workers: How many.
        rate: Completions a second, over all of them.
        seconds: How long to measure.
        watched: Whether Flower runs, too.

    Returns:
        By name: per second and, where jobs come, for each job.
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
    found = after.since(before)
    span_s = after.at_s - before.at_s
    found["worker_cpu_ms"] = (last.cpu_s - spent.cpu_s) / span_s * 1_000
    found["worker_mb"] = last.memory_mb / workers
    if done := last.done - spent.done:
        found["jobs_a_s"] = done / span_s
        found |= {
            f"{name}_a_job": found[name] * span_s / done
            for name in ("commands", "in_kb", "out_kb", "redis_ms", "worker_cpu_ms")
        }
    return found


def measure_memory() -> dict[str, float]:
    """What Redis holds for a waiting completion and a waiting email, in bytes."""
    found = {}
    with tempfile.TemporaryDirectory() as name, EmbeddedRedis(data_dir=Path(name)) as server:
        store = redis.Redis.from_url(server.url)
        for kind in ("completion", "email"):
            before: dict[str, Any] = store.info("memory")  # type: ignore[assignment]
            Producer(server.url, kind).send(_MANY)
            after: dict[str, Any] = store.info("memory")  # type: ignore[assignment]
            found[f"waiting_{kind}_b"] = (after["used_memory"] - before["used_memory"]) / _MANY
    return found


def show(words: str, found: dict[str, float]) -> None:
    """Print one line of figures."""
    print(f"{words:<28}" + ", ".join(f"{name} {value:.2f}" for name, value in found.items()),
        flush=True)  # fmt: skip


def measure(args: argparse.Namespace) -> int:
    """Measure, print and keep the figures."""
    found: dict[str, Any] = {}
    for watched in (False, True):
        for workers in args.workers if "idle" in args.only else ():
            name = f"idle, {workers} workers{', Flower' if watched else ''}"
            found[name] = measure_workers(workers, rate=0, seconds=args.seconds, watched=watched)
            show(name, found[name])
    for workers in args.workers if "busy" in args.only else ():
        name = f"{args.rate:g} jobs/s, {workers} workers"
        found[name] = measure_workers(workers, rate=args.rate, seconds=args.seconds, watched=False)
        show(name, found[name])
    found["memory"] = measure_memory()
    show("memory", found["memory"])
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"sizing-{time.strftime('%Y%m%d-%H%M%S')}.json").write_text(
        json.dumps(found, indent=1)
    )
    return 0


@dataclass(frozen=True)
class Costs:
    """What `measure` found, by the command line."""

    idle_redis_ms: float
    idle_commands: float
    idle_out_kb: float
    connections: float
    job_redis_ms: float
    job_commands: float
    job_out_kb: float
    job_worker_ms: float
    waiting_b: float
    result_b: float


def simulate(args: argparse.Namespace) -> int:
    """Take a day, minute by minute: what waits, and what Redis and the workers do."""
    costs = Costs(**{name: getattr(args, name) for name in Costs.__dataclass_fields__})
    rng = random.Random(1)  # noqa: S311 - chance, no secret
    backlog, results, kept = 0.0, 0.0, []
    peaks = {"backlog": 0.0, "jobs a second": 0.0, "Redis core": 0.0, "commands a second": 0.0,
        "Redis out, MB/s": 0.0, "Redis memory, MB": 0.0, "cores of workers": 0.0}  # fmt: skip
    total = 0.0
    for minute in range(2 * _DAY_MIN):  # the second day counts: the first one fills the results
        # A day's wave, and bursts on top of it.
        wave = 1 + (args.peak - 1) * math.sin(math.pi * (minute % _DAY_MIN) / _DAY_MIN) ** 2 * 2
        mean = args.jobs / _DAY_MIN * wave / (1 + (args.peak - 1))
        came = max(0.0, rng.gauss(mean, math.sqrt(mean)))
        by_keys = args.keys * args.rpm
        by_workers = args.workers * 60_000 / costs.job_worker_ms * 0.7
        served = min(backlog + came, by_keys, by_workers)
        backlog += came - served
        kept.append(served)
        results += served - (kept[minute - _DAY_MIN] if minute >= _DAY_MIN else 0.0)
        if minute < _DAY_MIN:
            continue
        total += served
        a_s = served / 60
        seen = {
            "backlog": backlog,
            "jobs a second": a_s,
            "Redis core": (args.workers * costs.idle_redis_ms + a_s * costs.job_redis_ms) / 1_000,
            "commands a second": args.workers * costs.idle_commands + a_s * costs.job_commands,
            "Redis out, MB/s": (args.workers * costs.idle_out_kb + a_s * costs.job_out_kb) / 1_000,
            "Redis memory, MB": (backlog * costs.waiting_b + results * costs.result_b) / 1e6,
            "cores of workers": a_s * costs.job_worker_ms / 1_000,
        }
        peaks = {name: max(peaks[name], value) for name, value in seen.items()}
    print(f"{args.workers} workers, {args.jobs:,.0f} jobs a day, peak {args.peak:g} times the mean")
    print(f"  {total:,.0f} served, {args.workers * costs.connections:,.0f} connections; at most:")
    for name, value in peaks.items():
        print(f"  {name:>20}  {value:,.2f}")
    return 0


def main() -> int:
    """Run what the command line names."""
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
    second = commands.add_parser("simulate", help="a day, by the figures of `measure`")
    second.set_defaults(act=simulate)
    second.add_argument("--workers", type=int, default=1_000)
    second.add_argument("--jobs", type=float, default=1e6, help="jobs a day")
    second.add_argument("--peak", type=float, default=3, help="the busiest minute over the mean")
    second.add_argument("--keys", type=int, default=10, help="accounts")
    second.add_argument("--rpm", type=float, default=1_000, help="calls a minute of each account")
    for name, value in _MEASURED.items():
        second.add_argument(f"--{name.replace('_', '-')}", type=float, default=value)
    args = parser.parse_args()
    return int(args.act(args))


_MEASURED = {
    "idle_redis_ms": 1.0,
    "idle_commands": 5.0,
    "idle_out_kb": 0.5,
    "connections": 10.0,
    "job_redis_ms": 0.6,
    "job_commands": 50.0,
    "job_out_kb": 1.8,
    "job_worker_ms": 4.0,
    "waiting_b": 1_500.0,
    "result_b": 1_000.0,
}
"""By docs/sizing.md."""

if __name__ == "__main__":
    sys.exit(main())
