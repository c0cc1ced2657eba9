"""How much of what the keys allow is used, and how many calls are refused: `python benchmarks/rotation.py`.

Each scenario runs for every contender against a fresh provider sandbox and a fresh Redis database, with the load spread
over worker processes. The judge is the sandbox's ledger. Limits are unknown to Keywheel at the start of each run;
LiteLLM is given them. It is installed on its first run, in an environment of its own under `.tmp/bench`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import redis
from environments import ROOT, interpreter
from rich.console import Console
from rich.table import Table
from rotation_plot import draw

from sandbox.process import Sandbox
from sandbox.redis import EmbeddedRedis

CHILD = Path(__file__).with_name("rotation_child.py")
RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Scenario:
    """One situation.

    Attributes:
        name: For the table.
        says: What happens, in a few words.
        service: `groq` or `resend`.
        accounts: The sandbox's accounts file.
        per_second: Calls that all keys together allow a second, once their burst is used up.
        burst: Calls that they allow at once at the start.
        tokens: Reserved tokens of each job, drawn from this list in turn.
        steps: A script of faults, with `at_s`.
        lost_s: Seconds of full capacity that the faults take away.
    """

    name: str
    says: str
    service: str
    accounts: dict[str, Any]
    per_second: float
    burst: float
    tokens: tuple[int, ...] = (40,)
    steps: tuple[dict[str, Any], ...] = ()
    lost: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)


def _groq(*rpms: int, keys: tuple[int, ...] = (), **limits: int) -> dict[str, Any]:
    base = {"rpd": 0, "tpm": 0, "tpd": 0} | limits
    return {
        "groq": [
            {"account": f"org_{n}", "keys": keys[n] if keys else 1, "rpm": rpm} | base for n, rpm in enumerate(rpms)
        ],
        "resend": [],
    }


SCENARIOS = (
    Scenario("equal", "5 equal keys", "groq", _groq(*[300] * 5), 25, 1500),
    Scenario(
        "unequal", "unequal keys, two of one organisation", "groq", _groq(600, 150, 300, keys=(1, 1, 2)), 17.5, 1050
    ),
    Scenario(
        "revoked",
        "one key revoked at 20 s, one failing from 30 s to 40 s",
        "groq",
        _groq(*[300] * 5),
        25,
        1500,
        steps=(
            {"at_s": 20, "do": "revoke", "key": "groq:1"},
            {"at_s": 30, "do": "fault", "service": "groq", "status": 500, "key": "groq:2", "seconds": 10},
        ),
    ),
    Scenario(
        "exhausted",
        "all keys out from 20 s for 15 s",
        "groq",
        _groq(*[300] * 5),
        25,
        1500,
        steps=({"at_s": 20, "do": "exhaust", "service": "groq", "seconds": 15},),
    ),
    Scenario(
        "tokens",
        "bound by tokens a minute, jobs of 50 to 1,600",
        "groq",
        _groq(*[0] * 4, tpm=30_000),
        0,
        0,
        tokens=(50, 100, 200, 400, 800, 1600),
        options={"groq_completion_tokens": 5000},
    ),
    Scenario(
        "emails",
        "3 teams at 5 a second, one with a daily quota of 200",
        "resend",
        {
            "groq": [],
            "resend": [
                {
                    "account": f"team_{n}",
                    "keys": 1,
                    "rps": 5,
                    "daily": 200 if n == 0 else 0,
                    "domains": [f"t{n}.example.net"],
                }
                for n in range(3)
            ],
        },
        15,
        0,
    ),
)


@dataclass
class Outcome:
    """One run."""

    scenario: str
    contender: str
    processes: int
    accepted_of_allowed: float
    refused_of_accepted: float
    accepted: int
    refused: int
    failed: int
    while_cooling: int
    wait_p50_s: float
    wait_p99_s: float
    cpu_ms: float
    trips: float
    after: "Recovery | None" = None


@dataclass
class Recovery:
    """What came after an outage of all keys.

    Attributes:
        first_second: Calls accepted in its first second, as a share of what was allowed then.
        refused: Calls refused in its first five seconds.
        behind_s: How much later than the keys allow as many calls were accepted as fit into one second.
    """

    first_second: float
    refused: int
    behind_s: float


def run(
    scenario: Scenario, contender: str, processes: int, *, seconds: float, load: float, latency_ms: float
) -> Outcome:
    """Run one contender through one scenario."""
    with (
        tempfile.TemporaryDirectory(prefix="keywheel-bench-") as folder,
        EmbeddedRedis(data_dir=Path(folder) / "redis") as server,
        Sandbox(
            accounts=scenario.accounts,
            scenario={"starts": "first_call", "steps": list(scenario.steps)} if scenario.steps else None,
            groq_latency_ms=latency_ms,
            groq_jitter_ms=latency_ms,
            resend_latency_ms=30,
            resend_jitter_ms=30,
            **scenario.options,
        ) as sandbox,
    ):
        rate = load * (scenario.per_second or 20)
        work = {
            "contender": contender,
            "service": scenario.service,
            "rate": rate / processes,
            "seconds": seconds,
            "tokens": scenario.tokens,
            "accounts": scenario.accounts[scenario.service],
            "redis": server.url,
        }
        environment = dict(os.environ) | sandbox.env() | {"REDIS_URL": server.url, "PYTHONPATH": str(ROOT)}
        python = interpreter("litellm") if contender == "litellm" else sys.executable
        with redis.Redis.from_url(server.url) as client:
            client.config_resetstat()
            children = [
                subprocess.Popen(  # noqa: S603 - our own script
                    [python, str(CHILD), json.dumps(work | {"number": number})],
                    env=environment,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                for number in range(processes)
            ]
            reports = [json.loads(child.communicate(timeout=seconds + 120)[0].splitlines()[-1]) for child in children]
            stats = client.info("commandstats")
        outcome = judge(scenario, contender, reports=reports, ledger=sandbox.ledger(), stats=stats, seconds=seconds)
        if scenario.name == "exhausted":
            outcome.after = recovery(scenario, sandbox.ledger(full=True)["calls"], seconds=seconds)
        return outcome


def recovery(scenario: Scenario, calls: list[dict[str, Any]], *, seconds: float) -> Recovery:
    """Judge the first seconds after the outage."""
    step = scenario.steps[0]
    end_s = min(call["arrived_s"] for call in calls) + step["at_s"] + step["seconds"]
    after = [(call["arrived_s"] - end_s, call) for call in calls if call["arrived_s"] >= end_s]
    accepted = sorted(at_s for at_s, call in after if call["accepted"])
    at_once = len(scenario.accounts["groq"])  # at the end of the outage one call of each account fits
    allowed = scenario.per_second + at_once
    worth = round(scenario.per_second)
    return Recovery(
        first_second=sum(at_s < 1 for at_s in accepted) / allowed,
        refused=sum(at_s < 5 and call["status"] == 429 for at_s, call in after),  # noqa: PLR2004 - see above; HTTP
        behind_s=accepted[worth - 1] - (worth - at_once) / scenario.per_second if len(accepted) >= worth else seconds,
    )


def judge(
    scenario: Scenario,
    contender: str,
    *,
    reports: list[dict[str, Any]],
    ledger: dict[str, Any],
    stats: dict[str, Any],
    seconds: float,
) -> Outcome:
    """Hold what was accepted against what the keys allowed."""
    book = ledger["services"][scenario.service]
    accepted = book["accepted"]
    refused = book["by_status"].get("429", 0)
    waits = sorted(wait for report in reports for wait in report["waits_s"]) or [0.0]
    trips = sum(
        line["calls"] for name, line in stats.items() if name in {"cmdstat_evalsha", "cmdstat_get", "cmdstat_mget"}
    )
    return Outcome(
        scenario=scenario.name,
        contender=contender,
        processes=len(reports),
        accepted_of_allowed=used(scenario, book, seconds) if accepted else 0.0,
        refused_of_accepted=refused / max(accepted, 1),
        accepted=accepted,
        refused=refused,
        failed=sum(report["failed"] for report in reports),
        while_cooling=ledger["judgement"]["calls_while_cooling"],
        wait_p50_s=waits[len(waits) // 2],
        wait_p99_s=waits[int(len(waits) * 0.99)],
        cpu_ms=sum(report["cpu_s"] for report in reports) * 1000 / max(accepted, 1),
        trips=trips / max(accepted, 1),
    )


def used(scenario: Scenario, book: dict[str, Any], seconds: float) -> float:
    """Accepted ÷ allowed. Tokens: what was used of the tokens; else calls."""
    if scenario.name == "tokens":
        allowed = sum(account["tpm"] * (1 + seconds / 60) for account in scenario.accounts["groq"])
        return float(book["tokens"] / allowed)
    if scenario.name == "emails":
        quota = 200
        return float(book["accepted"] / (min(quota, 5 * seconds) + 2 * 5 * seconds))
    allowed = scenario.burst + scenario.per_second * seconds
    if scenario.name == "revoked":  # its share after 20 s, and the failing key's while it fails
        allowed -= scenario.per_second / 5 * (seconds - 20) + scenario.per_second / 5 * 10
    if scenario.name == "exhausted":
        # When the outage ends every bucket is empty; from then on only what refills is allowed.
        step = scenario.steps[0]
        before = min(3 * step["at_s"] * scenario.per_second, scenario.burst + step["at_s"] * scenario.per_second)
        allowed = before + scenario.per_second * (seconds - step["at_s"] - step["seconds"])
    return float(book["accepted"] / allowed)


def outcomes(args: argparse.Namespace, console: Console) -> Iterator[Outcome]:
    """Run everything that was asked for, telling the progress."""
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
            f"[{number}/{len(plan)}] {scenario.name}: {scenario.says} · {contender} · {processes} process(es)"
        )
        outcome = run(scenario, contender, processes, seconds=args.seconds, load=args.load, latency_ms=args.latency_ms)
        console.print(
            f"    accepted ÷ allowed {outcome.accepted_of_allowed:.3f}, refused ÷ accepted"
            f" {outcome.refused_of_accepted:.4f} ({time.monotonic() - began:.0f} s)"
        )
        if outcome.after:
            console.print(
                f"    after the outage: {outcome.after.first_second:.2f} of what is allowed in the first second,"
                f" {outcome.after.refused} refused; a second's worth of calls"
                f" {outcome.after.behind_s:.2f} s later than allowed"
            )
        yield outcome


def main() -> int:
    """Parse the command line, run, print the table, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120, help="length of each run (default: 120)")
    parser.add_argument("--load", type=float, default=3, help="offered load as a multiple of the capacity (default: 3)")
    parser.add_argument(
        "--latency-ms", type=float, default=50, help="a completion takes up to twice as long (default: 50)"
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], help="worker processes (default: 1 2 4)")
    parser.add_argument(
        "--contenders", nargs="+", default=["keywheel", "plain", "litellm"], choices=["keywheel", "plain", "litellm"]
    )
    parser.add_argument("--scenarios", nargs="+", choices=[scenario.name for scenario in SCENARIOS])
    args = parser.parse_args()
    console = Console(width=max(170, Console().width))
    table = Table(
        "scenario", "contender", "proc.", "acc ÷ allowed", "ref ÷ acc", "accepted", "429s", "failed", "cooling"
    )
    for title in ("wait p50 s", "p99 s", "cpu ms/call", "trips/call"):
        table.add_column(title, justify="right")
    RESULTS.mkdir(exist_ok=True)
    kept = RESULTS / f"rotation-{time.strftime('%Y%m%d-%H%M%S')}.jsonl"
    runs = []
    with kept.open("w") as log:
        for one in outcomes(args, console):
            runs.append(one)
            log.write(json.dumps(asdict(one)) + "\n")
            table.add_row(
                one.scenario,
                one.contender,
                str(one.processes),
                f"{one.accepted_of_allowed:.3f}",
                f"{one.refused_of_accepted:.4f}",
                *(str(number) for number in (one.accepted, one.refused, one.failed, one.while_cooling)),
                f"{one.wait_p50_s:.2f}",
                f"{one.wait_p99_s:.2f}",
                f"{one.cpu_ms:.1f}",
                f"{one.trips:.1f}",
            )
    console.print(table)
    draw(runs, kept.with_suffix(".svg"))
    console.print(f"figures: {kept}, picture: {kept.with_suffix('.svg')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
