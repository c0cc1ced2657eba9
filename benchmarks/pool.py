"""Compares the asyncio pool with Celery's pools and asyncio queues: `python -m benchmarks.pool`.

All use the same Redis and store results. The rounds are interleaved, so that other programs on the
machine disturb all alike: compare the ratios, not the figures. There are three measurements:

- No-op jobs, and jobs that wait for a second with 1,000 and 4,000 in flight. They are in the queue
  before the worker starts. The time runs from the beginning of the first job to the end of the last
  one, without starting, sending and idling. The CPU time is that of all processes of the worker,
  from the first job done to the last.
- A worker with little to do: the time from sending a job to its beginning, one job every 20 ms.
- Memory: that of an idle worker, and what each of 4,000 jobs in flight adds.

Each contender has a virtual environment of its own, made on the first run in `.tmp/bench`.
"""

import argparse
import os
import subprocess
import time

from rich.console import Console

from benchmarks.environments import interpreter
from benchmarks.pool_contenders import CONTENDERS, Contender
from benchmarks.pool_measure import Bench, Run
from benchmarks.pool_report import QuietRuns, Runs, show
from sandbox.redis import EmbeddedRedis


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="interleaved rounds; the median counts (default: 3)"
    )
    parser.add_argument("--jobs", type=int, default=5000, help="no-op jobs a round (default: 5000)")
    parser.add_argument(
        "--concurrency",
        type=int,
        default=1000,
        help="concurrency for no-op jobs (default: 1000)",
    )
    parser.add_argument(
        "--in-flight", default="1000,4000", help="one-second jobs at once (default: 1000,4000)"
    )
    parser.add_argument(
        "--waves", type=int, default=3, help="waves of one-second jobs (default: 3)"
    )
    parser.add_argument(
        "--light", type=int, default=100, help="jobs at light load; 0: none (default: 100)"
    )
    parser.add_argument(
        "--limit", type=float, default=45, help="seconds for one measurement (default: 45)"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=15,
        help="no new measurement is begun after this (default: 15)",
    )
    parser.add_argument("--only", default="", help="contenders, separated by commas (default: all)")
    return parser.parse_args()


class Session:
    """Makes all measurements, in rounds."""

    def __init__(self, options: argparse.Namespace, console: Console, url: str) -> None:
        self._options = options
        self._console = console
        self._url = url
        self._end_s = time.monotonic() + options.minutes * 60
        self.naps = [int(part) for part in options.in_flight.split(",") if part.strip()]
        self.runs: Runs = {}
        self.quiet_runs: QuietRuns = {}
        self._pythons: dict[Contender, str] = {}

    def find(self) -> None:
        """Find or make the environment of each contender."""
        only = [name.strip() for name in self._options.only.split(",") if name.strip()]
        for contender in CONTENDERS:
            if only and contender.name not in only:
                continue
            try:
                self._pythons[contender] = interpreter(contender.environment)
            except (subprocess.SubprocessError, OSError) as exc:
                self._console.print(f"left out: {contender.name} ({exc})")

    def run(self) -> None:
        """Make the rounds of the options, as far as the time allows."""
        options = self._options
        for number in range(1, options.rounds + 1):
            for contender, python in self._pythons.items():
                self._work(number, contender, python, "noop", options.jobs, options.concurrency)
            for nap in self.naps:
                for contender, python in self._pythons.items():
                    if (
                        contender.most >= nap
                    ):  # otherwise it takes jobs / most seconds, which need not be measured
                        self._work(number, contender, python, "nap", nap * options.waves, nap)
            for contender, python in self._pythons.items():
                self._measure_quiet(number, contender, python)

    def _late(self) -> bool:
        return bool(time.monotonic() > self._end_s)

    def _work(  # noqa: PLR0917 - one call each
        self, number: int, contender: Contender, python: str, task: str, jobs: int, concurrency: int
    ) -> None:
        kind = "noop" if task == "noop" else f"nap {concurrency}"
        earlier = self.runs.get((contender.name, kind), [])
        if self._late() or (earlier and earlier[0].done < jobs):  # too slow in round 1
            return
        try:
            with Bench(
                contender, python, self._url, concurrency=min(concurrency, contender.most)
            ) as bench:
                run = bench.work_off(task, jobs, limit_s=self._options.limit)
        except (RuntimeError, subprocess.SubprocessError) as exc:
            self._console.print(f"{contender.name}, {kind}: {exc}")
            run = Run(self._options.limit, 0, 0)
        self.runs.setdefault((contender.name, kind), []).append(run)
        self._print_round(
            number, kind, contender, f"{run.done:6} jobs {run.seconds:6.2f} s {run.rate:6.0f}/s"
        )

    def _measure_quiet(self, number: int, contender: Contender, python: str) -> None:
        if self._late() or not self._options.light:
            return
        most = max(self.naps, default=0)
        in_flight = most if contender.most >= most else 0
        at_once = min(max(most, 100), contender.most)
        try:
            with Bench(contender, python, self._url, concurrency=at_once, nap_s=10) as bench:
                quiet = bench.measure_quiet(
                    jobs=self._options.light, in_flight=in_flight, limit_s=self._options.limit
                )
        except (RuntimeError, subprocess.SubprocessError) as exc:
            self._console.print(f"{contender.name}, at light load: {exc}")
            return
        self.quiet_runs.setdefault(contender.name, []).append(quiet)
        held = "" if quiet.job_kb is None else f", {quiet.job_kb:.1f} KB a job"
        self._print_round(
            number,
            "quiet",
            contender,
            f"lag {quiet.lag_ms:.1f} ms ({quiet.send_ms:.1f} to send), {quiet.idle_mb:.0f} MB "
            f"idle{held}",
        )

    def _print_round(self, number: int, kind: str, contender: Contender, figures: str) -> None:
        self._console.print(
            f"round {number}/{self._options.rounds} {kind:8} {contender.name:25} {figures}  load "
            f"{os.getloadavg()[0]:.1f}",
            highlight=False,
            soft_wrap=True,
        )


def main() -> None:
    """Measure, print and save."""
    options = _options()
    console = Console()
    console.print(
        f"load of the machine at the start: {os.getloadavg()[0]:.1f}, {os.cpu_count()} CPUs"
    )
    with EmbeddedRedis(options={"appendonly": "no"}) as server:
        session = Session(options, console, server.url)
        session.find()
        session.run()
    show(console, session.runs, session.quiet_runs, naps=session.naps, waves=options.waves)


if __name__ == "__main__":
    main()
