"""Measures the cost of a job: CPU of the workers and of Redis for a completion or an email.

`python -m benchmarks.cost`.

It uses real workers and the provider sandbox at 180 ms a completion; the limits are given. Each
line is one window of a steady state, without the start of the workers. The figures are CPU time and
not elapsed time, so other programs on the machine change them little.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis
from celery import Celery

from benchmarks.batches import mail
from benchmarks.cost_cases import CASES, FREE, Case
from benchmarks.pool_measure import use_of
from benchmarks.rotation import run as run_contender
from benchmarks.rotation_scenarios import Scenario
from sandbox.process import Sandbox
from sandbox.redis import EmbeddedRedis

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results")
LATENCY_MS = 180
_READY_S = 40.0
_SETTLES_S = 5.0


@dataclass(frozen=True)
class Spent:
    """The CPU time and counters used up to an instant."""

    at_s: float
    cpu_s: float
    memory_mb: float
    commands: int
    by_command: dict[str, int]
    redis_s: float
    connections: int
    done: int


def completion(_: int) -> dict[str, Any]:
    """A short question."""
    return {"messages": [{"role": "user", "content": "go on"}], "max_completion_tokens": 40}


class Bench:
    """Workers, Redis and the providers of one case."""

    def __init__(
        self, case: Case, sandbox: Sandbox, store: "redis.Redis[Any]", folder: Path
    ) -> None:
        self._case = case
        self._sandbox = sandbox
        self._store = store
        self._folder = folder
        self._workers: list[subprocess.Popen[bytes]] = []

    @contextlib.contextmanager
    def workers(self, environment: dict[str, str]) -> Iterator[None]:
        """Run the workers until the block ends."""
        logs = [self._folder / f"w{number}.log" for number in range(self._case.processes)]
        for number, log in enumerate(logs):
            command = [sys.executable, "-m", "worker", "-n", f"w{number}@bench"]
            with log.open("wb") as sink:
                self._workers.append(
                    subprocess.Popen(  # noqa: S603
                        command,
                        cwd=self._folder,
                        env=environment,
                        stdout=sink,
                        stderr=sink,
                        start_new_session=True,
                    )
                )
        try:
            deadline_s = time.monotonic() + _READY_S
            while not all(b" ready." in log.read_bytes() for log in logs):
                if time.monotonic() > deadline_s or any(
                    worker.poll() is not None for worker in self._workers
                ):
                    raise RuntimeError(logs[0].read_text(errors="replace")[-2000:])
                time.sleep(0.1)
            yield
        finally:
            for worker in self._workers:
                worker.kill()
                worker.wait()

    def spent(self) -> Spent:
        """Read the meters."""
        used = [use_of(worker) for worker in self._workers]
        info = self._store.info()
        judged = self._sandbox.ledger()
        emails = self._case.kind == "email"
        done = (
            judged["judgement"]["emails_accepted"]
            if emails
            else sum(book["accepted"] for book in judged["services"].values())
        )
        return Spent(
            time.monotonic(),
            sum(cpu_s for cpu_s, _ in used),
            sum(memory_mb for _, memory_mb in used),
            info["total_commands_processed"],
            {
                name.removeprefix("cmdstat_"): stats["calls"]
                for name, stats in self._store.info("commandstats").items()
            },
            info["used_cpu_user"] + info["used_cpu_sys"],
            # Without the connection of this client and that of the producer, which connects when it
            # sends.
            info["connected_clients"] - (2 if self._case.kind else 1),
            done,
        )


class Producer:
    """Sends jobs by task name, as any Celery application can."""

    def __init__(self, url: str, kind: str) -> None:
        self._app = Celery("bench", broker=url, set_as_current=False)
        self._name, self._queue = (
            ("tasks.email.send", "email") if kind == "email" else ("tasks.ai.complete", "ai")
        )
        self._arguments: Callable[[int], dict[str, Any]] = mail if kind == "email" else completion
        self._sent = 0

    def send(self, count: int) -> None:
        """Send some jobs."""
        with self._app.producer_pool.acquire(block=True) as producer:
            for _ in range(count):
                self._app.send_task(
                    self._name,
                    kwargs=self._arguments(self._sent),
                    queue=self._queue,
                    producer=producer,
                )
                self._sent += 1

    def pour(self, rate: float, over: threading.Event) -> None:
        """Send `rate` jobs a second until `over` is set."""
        began_s, before = time.monotonic(), self._sent
        while not over.wait(min(0.05, 1 / rate)):
            self.send(int((time.monotonic() - began_s) * rate) - (self._sent - before))


def measure(case: Case, *, seconds: float) -> dict[str, Any]:
    """Measure one case."""
    with (
        tempfile.TemporaryDirectory(prefix="keywheel-bench-") as name,
        EmbeddedRedis(data_dir=Path(name) / "redis") as server,
        Sandbox(
            resend_daily=0,
            resend_monthly=0,
            groq_latency_ms=LATENCY_MS,
            resend_latency_ms=LATENCY_MS,
            **case.sandbox,
        ) as sandbox,
        redis.Redis.from_url(server.url) as store,
    ):
        limits = {"KEYWHEEL_GROQ_LIMITS": case.limits} if case.limits else {}
        environment = (
            dict(os.environ)
            | sandbox.env()
            | limits
            | {"REDIS_URL": server.url, "PYTHONPATH": str(ROOT)}
        )
        producer, bench = Producer(server.url, case.kind), Bench(case, sandbox, store, Path(name))
        producer.send(case.waiting)
        over = threading.Event()
        with bench.workers(environment):
            pouring = (
                threading.Thread(target=producer.pour, args=(case.rate, over))
                if case.rate
                else None
            )
            if pouring:
                pouring.start()
            try:
                time.sleep(_SETTLES_S)
                while (before := bench.spent()).done < case.begins_at:
                    time.sleep(0.2)
                time.sleep(seconds)
                after = bench.spent()
            finally:
                over.set()
                if pouring:
                    pouring.join()
    return {"case": case.name} | figures(before, after)


def figures(before: Spent, after: Spent) -> dict[str, Any]:
    """The figures of the window between two readings."""
    seconds, done = after.at_s - before.at_s, after.done - before.done
    values: dict[str, Any] = {
        "done_per_s": done / seconds,
        "cpu_percent": (after.cpu_s - before.cpu_s) / seconds * 100,
        "memory_mb": after.memory_mb,
        "connections": float(after.connections),
        "commands_per_s": (after.commands - before.commands) / seconds,
    }
    if done:
        values |= {
            "cpu_ms": (after.cpu_s - before.cpu_s) / done * 1000,
            "commands": (after.commands - before.commands) / done,
            "redis_ms": (after.redis_s - before.redis_s) / done * 1000,
            "by_command": {
                name: round((count - before.by_command.get(name, 0)) / done, 2)
                for name, count in sorted(after.by_command.items())
                if count - before.by_command.get(name, 0) >= done / 50
            },
        }
    return values


def peer() -> dict[str, Any]:
    """Measure LiteLLM's router at three times the load, in processes that do nothing else.

    There are no broker and no results.
    """
    seconds = 45.0  # the first burst lasts for 30 s
    accounts = {
        "groq": [
            {"account": f"org_{number}", "keys": 1, "rpm": 1_000, "tpm": 0} for number in range(3)
        ]
    }
    scenario = Scenario("equal", "three equal accounts", "groq", accounts, options=FREE)
    outcome = run_contender(
        scenario, "litellm", 2, seconds=seconds, multiple=3, latency_ms=LATENCY_MS
    )
    return {
        "case": "3 times, LiteLLM",
        "done_per_s": outcome.accepted / seconds,
        "cpu_ms": outcome.cpu_ms,
        "commands": outcome.trips["commands"],
    }


def main() -> int:
    """Parse the command line, measure, print and save the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=15, help="length of each window (default: 15)"
    )
    parser.add_argument(
        "--only", nargs="+", choices=[case.name for case in CASES], help="default: all"
    )
    parser.add_argument(
        "--commands",
        action="store_true",
        help="also print the count of each Redis command",
    )
    parser.add_argument(
        "--beside", choices=["litellm"], help="a peer at three times the load, in a run of its own"
    )
    args = parser.parse_args()
    results = []
    for case in CASES:
        if case.name in (args.only or [case.name]):
            results.append(measure(case, seconds=args.seconds))
            show(results[-1], commands=args.commands)
    if args.beside:
        results.append(peer())
        show(results[-1])
        ours = next(
            (case["cpu_ms"] for case in results if case["case"] == "3 times the load"), None
        )
        if ours:
            print(f"of LiteLLM's CPU, Keywheel takes {ours / results[-1]['cpu_ms']:.2f}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"cost-{time.strftime('%Y%m%d-%H%M%S')}.json").write_text(
        json.dumps(results, indent=1)
    )
    return 0


def show(figures_of: dict[str, Any], *, commands: bool = False) -> None:
    """Print the figures of one case."""
    numbers = {name: value for name, value in figures_of.items() if isinstance(value, float)}
    if commands:
        numbers |= figures_of.get("by_command", {})
    print(
        f"{figures_of['case']:>18}: "
        + ", ".join(f"{name} {value:.2f}" for name, value in numbers.items()),
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
