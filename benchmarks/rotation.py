"""Measures which share of the keys' limits is used, and how many calls are refused.

`python -m benchmarks.rotation`.

Each scenario runs for every contender, with a new provider sandbox and an empty Redis database.
Worker processes share the load and begin at the same instant. The judge is the sandbox's ledger.
Keywheel does not know the limits at the start of a run; LiteLLM is given them. LiteLLM is installed
on its first run, in a virtual environment in `.tmp/bench`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import redis
from rich.console import Console
from rich.table import Table

from benchmarks.environments import ROOT, interpreter
from benchmarks.rotation_judge import SOON_S, Outcome, WorkerReports, judge, recovery
from benchmarks.rotation_plot import draw
from benchmarks.rotation_scenarios import SCENARIOS, Load, Scenario
from sandbox.process import Sandbox
from sandbox.redis import EmbeddedRedis

CHILD = "benchmarks.rotation_child"
RESULTS = Path(__file__).with_name("results")
_AHEAD_S = 1.0


def run(
    scenario: Scenario,
    contender: str,
    processes: int,
    *,
    seconds: float,
    multiple: float,
    latency_ms: float,
) -> Outcome:
    """Run one contender through one scenario, at a multiple of the rate that the keys allow."""
    with (
        tempfile.TemporaryDirectory(prefix="keywheel-bench-") as folder,
        EmbeddedRedis(data_dir=Path(folder) / "redis") as server,
        Sandbox(
            accounts=scenario.accounts,
            scenario={"starts": "first_call", "steps": list(scenario.steps)}
            if scenario.steps
            else None,
            groq_latency_ms=latency_ms,
            groq_jitter_ms=latency_ms,
            resend_latency_ms=30,
            resend_jitter_ms=30,
            **scenario.options,
        ) as sandbox,
    ):
        load = Load(multiple * scenario.per_second, processes, seconds)
        work = asdict(load) | {
            "contender": contender,
            "service": scenario.service,
            "tokens": scenario.tokens,
            "accounts": scenario.owners,
            "redis": server.url,
        }
        environment = (
            dict(os.environ) | sandbox.env() | {"REDIS_URL": server.url, "PYTHONPATH": str(ROOT)}
        )
        with redis.Redis.from_url(server.url) as client:
            client.config_resetstat()
            workers = run_workers(work, environment)
            stats = client.info("commandstats")
        outcome = judge(
            scenario, contender, load=load, workers=workers, ledger=sandbox.ledger(), stats=stats
        )
        if (
            scenario.outage
            and seconds >= scenario.outage["at_s"] + scenario.outage["seconds"] + SOON_S
        ):
            outcome.after = recovery(scenario, sandbox.ledger(full=True)["calls"], seconds=seconds)
        return outcome


def run_workers(work: dict[str, Any], environment: dict[str, str]) -> WorkerReports:
    """Run the worker processes. None begins before all have imported their modules.

    Raises:
        RuntimeError: A process ended before it was ready.
    """
    python = interpreter("litellm") if work["contender"] == "litellm" else sys.executable
    children = [
        subprocess.Popen(  # noqa: S603 - our own script
            [python, "-m", CHILD, json.dumps(work | {"number": number})],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(work["processes"])
    ]
    try:
        for child in children:
            if not any(line == "READY\n" for line in iter(child.stdout.readline, "")):
                raise RuntimeError("a worker process ended before it was ready")
        began_s = time.time() + _AHEAD_S
        for child in children:
            child.stdin.write(f"{began_s}\n")
            child.stdin.flush()
        wait_s = work["seconds"] + 120
        reports = [
            json.loads(child.communicate(timeout=wait_s)[0].splitlines()[-1]) for child in children
        ]
    finally:
        for child in children:
            child.kill()
    return WorkerReports(reports, began_s)


def outcomes(args: argparse.Namespace, console: Console) -> Iterator[Outcome]:
    """Run the chosen scenarios and print the progress."""
    names = set(args.scenarios or [scenario.name for scenario in SCENARIOS])
    plan = [
        (scenario, contender, processes)
        for scenario in SCENARIOS
        if scenario.name in names
        for processes in args.processes
        for contender in args.contenders
        if not (contender == "litellm" and scenario.service == "resend")
    ]
    began = time.monotonic()
    for number, (scenario, contender, processes) in enumerate(plan, 1):
        console.print(
            f"[{number}/{len(plan)}] {scenario.name}: {scenario.description} · {contender} · "
            f"{processes} process(es)"
        )
        if any(step["at_s"] + step.get("seconds", 0) >= args.seconds for step in scenario.steps):
            console.print("    the run is too short for all of that")
        outcome = run(
            scenario,
            contender,
            processes,
            seconds=args.seconds,
            multiple=args.load,
            latency_ms=args.latency_ms,
        )
        console.print(
            f"    accepted ÷ allowed {outcome.accepted_of_allowed:.3f}, refused ÷ accepted"
            f" {outcome.refused_of_accepted:.4f}, {outcome.due} jobs due, {outcome.served} served"
            f" ({time.monotonic() - began:.0f} s)"
        )
        if outcome.lost_to:
            console.print(f"    jobs lost to {outcome.lost_to}")
        if outcome.after:
            console.print(
                f"    after the outage: {outcome.after.first_second:.2f} of what is allowed "
                "arrived in the first second"
                f", {outcome.after.refused} refused in five; a second's worth of calls"
                f" {outcome.after.behind_s:.2f} s later than allowed"
            )
        yield outcome


def row(outcome: Outcome) -> list[str]:
    """One line of the table."""
    acquires = outcome.trips.get("acquire")
    return [
        outcome.scenario,
        outcome.contender,
        str(outcome.processes),
        f"{outcome.accepted_of_allowed:.3f}",
        f"{outcome.refused_of_accepted:.4f}",
        str(outcome.accepted),
        str(outcome.refused),
        ", ".join(f"{count} × {status}" for status, count in outcome.others.items()) or "-",
        *(
            str(count)
            for count in (
                outcome.failed,
                outcome.lost,
                outcome.still_open,
                outcome.not_begun,
                outcome.while_cooling,
            )
        ),
        f"{outcome.wait_p50_s:.2f}",
        f"{outcome.wait_p99_s:.2f}",
        f"{outcome.cpu_ms:.1f}",
        "-" if acquires is None else f"{acquires:.2f}",
        f"{sum(outcome.trips.values()):.2f}",
    ]


HEADS = (
    *(
        "scenario",
        "contender",
        "proc.",
        "accepted\n÷ allowed",
        "refused ÷\naccepted",
        "accepted",
        "refused",
        "others",
    ),
    *(
        "failed",
        "lost",
        "open",
        "not\nbegun",
        "cooling",
        "wait in the\nworker p50 s",
        "p99 s",
        "cpu ms\n/call",
    ),
    *("acquires\n/call", "trips\n/call"),
)


def main() -> int:
    """Parse the command line, run, print the table and save the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=120, help="length of each run (default: 120)"
    )
    parser.add_argument(
        "--load",
        type=float,
        default=3,
        help="offered load as a multiple of the capacity (default: 3)",
    )
    parser.add_argument(
        "--latency-ms",
        type=float,
        default=50,
        help="a completion takes up to twice as long (default: 50)",
    )
    parser.add_argument(
        "--processes",
        type=int,
        nargs="+",
        default=[1, 2, 4],
        help="worker processes (default: 1 2 4)",
    )
    parser.add_argument(
        "--contenders",
        nargs="+",
        default=["keywheel", "plain", "litellm"],
        choices=["keywheel", "plain", "litellm"],
    )
    parser.add_argument("--scenarios", nargs="+", choices=[scenario.name for scenario in SCENARIOS])
    args = parser.parse_args()
    console = Console(width=max(190, Console().width))
    table = Table()
    for number, head in enumerate(HEADS):
        table.add_column(head, justify="right" if number > 1 else "left")
    RESULTS.mkdir(exist_ok=True)
    kept = RESULTS / f"rotation-{time.strftime('%Y%m%d-%H%M%S')}.jsonl"
    runs = []
    with kept.open("w") as log:
        for outcome in outcomes(args, console):
            runs.append(outcome)
            log.write(json.dumps(asdict(outcome)) + "\n")
            table.add_row(*row(outcome))
    console.print(table)
    draw(runs, kept.with_suffix(".svg"))
    console.print(f"figures: {kept}, picture: {kept.with_suffix('.svg')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
