"""Compares the cost of a job with its bars: `python -m benchmarks.bars`.

It runs `cost.py` with LiteLLM. Of `pool.py` it runs 4,000 jobs of a second, and a worker with
little to do, beside taskiq. This takes some ten minutes. The figures count only on an otherwise
idle machine, so the load is printed beside them. A missed bar is not an error.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.cost import measure, peer, show
from benchmarks.cost_cases import CASES
from benchmarks.pool import Session
from benchmarks.pool_contenders import REFERENCE
from sandbox.redis import EmbeddedRedis

_WAVE, _WAVES = 4_000, 3
_PEER = "taskiq"
_IDLE_S = 20.0
"""A worker that has just started holds one more connection, for some 15 s."""

Costs = dict[str, dict[str, Any]]
"""The figures of each state of `cost.py`."""


@dataclass(frozen=True)
class Figure:
    """One figure and its bar.

    Attributes:
        name: The name of the figure, with its unit.
        value: The measured value; None if it could not be measured.
        bar: The highest value that reaches the bar, or the lowest if `is_least`.
        is_least: Whether higher values are better.
        note: The figure to compare it with.
    """

    name: str
    value: float | None
    bar: float
    is_least: bool = False
    note: str = ""

    @property
    def row(self) -> tuple[str, ...]:
        """The figure's row of the table."""
        bar = f"{'≥' if self.is_least else '≤'} {self.bar:g}"
        if self.value is None:
            return self.name, "-", bar, "not measured", self.note
        reached = self.value >= self.bar if self.is_least else self.value <= self.bar
        return self.name, f"{self.value:.2f}", bar, "reached" if reached else "", self.note


def of_costs(costs: Costs) -> Iterator[Figure]:
    """The figures of `cost.py`."""

    def value(state: str, name: str) -> float | None:
        return costs.get(state, {}).get(name)

    saturation, load = value("saturation", "cpu_ms"), value("3 times the load", "cpu_ms")
    litellm = value("3 times, LiteLLM", "cpu_ms")
    yield Figure("CPU ms a completion, saturation", saturation, 2.0)
    yield Figure(
        "completions a second and core", 1000 / saturation if saturation else None, 480, True
    )
    yield Figure("CPU ms, 0.8 of the load", value("0.8 of the load", "cpu_ms"), 3.0)
    yield Figure("CPU ms, 3 times the load", load, 2.6)
    yield Figure(
        "of LiteLLM's",
        load / litellm if load and litellm else None,
        0.3,
        note=f"LiteLLM {litellm:.1f} ms" if litellm else "",
    )
    yield Figure("CPU ms, 3 times, tokens", value("3 times, tokens", "cpu_ms"), 4.0)
    yield Figure("CPU ms, an email alone", value("email alone", "cpu_ms"), 3.0)
    yield Figure("CPU ms, emails in batches", value("emails in batches", "cpu_ms"), 1.5)
    yield Figure("MB, idle", value("idle", "memory_mb"), 90)
    yield Figure("commands a second, idle", value("idle", "commands_per_s"), 5)
    yield Figure("connections, idle", value("idle", "connections"), 6)
    for state, commands, redis_ms in (
        ("saturation", 40, 0.4),
        ("0.8 of the load", 40, 0.4),
        ("trickle", 60, 0.6),
    ):
        yield Figure(f"Redis' commands, {state}", value(state, "commands"), commands)
        yield Figure(f"Redis' CPU ms, {state}", value(state, "redis_ms"), redis_ms)


def of_pool(session: Session) -> Iterator[Figure]:
    """The figures of `pool.py`."""
    runs = session.runs.get((REFERENCE, f"nap {_WAVE}"), [])
    waves = [run.seconds / _WAVES for run in runs if run.done >= _WAVE * _WAVES]
    ours, peers = session.quiet_runs.get(REFERENCE, []), session.quiet_runs.get(_PEER, [])
    held = [quiet.job_kb for quiet in ours if quiet.job_kb is not None]
    peer_ms = (
        f"{_PEER} {statistics.median(quiet.lag_ms for quiet in peers):.1f} ms" if peers else ""
    )
    yield Figure("s a wave, 4,000 of 1 s", statistics.median(waves) if waves else None, 1.25)
    yield Figure("KB a job in flight", statistics.median(held) if held else None, 8)
    lag_ms = statistics.median(quiet.lag_ms for quiet in ours) if ours else None
    yield Figure("ms from enqueue to start", lag_ms, 1.7, note=peer_ms)


def main() -> int:
    """Measure all, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=15, help="length of each state (default: 15)"
    )
    parser.add_argument(
        "--rounds", type=int, default=1, help="rounds of the pool; the median counts (default: 1)"
    )
    args = parser.parse_args()
    console, costs = Console(), {}
    states = [
        partial(measure, case, seconds=args.seconds if case.kind else max(args.seconds, _IDLE_S))
        for case in CASES
    ]
    for run in (*states, peer):
        try:
            result = run()
        except (RuntimeError, OSError, subprocess.SubprocessError) as exc:
            console.print(f"not measured: {exc}", soft_wrap=True)
            continue
        show(result)
        costs[result["case"]] = result
    options = argparse.Namespace(
        rounds=args.rounds,
        jobs=1_000,
        concurrency=1_000,
        in_flight=str(_WAVE),
        waves=_WAVES,
        light=100,
        limit=45.0,
        minutes=15.0,
        only=f"{REFERENCE},{_PEER}",
    )
    with EmbeddedRedis(options={"appendonly": "no"}) as server:
        session = Session(options, console, server.url)
        session.find()
        session.run()
    table = Table(title=f"load {os.getloadavg()[0]:.1f} at the end, {os.cpu_count()} CPUs")
    for head in ("figure", "measured", "bar", "", "beside"):
        table.add_column(head, justify="right" if head in {"measured", "bar"} else "left")
    for figure in (*of_costs(costs), *of_pool(session)):
        table.add_row(*figure.row)
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
