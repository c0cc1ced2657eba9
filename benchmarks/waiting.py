"""Measures whether a job waits although a key has room: `python -m benchmarks.waiting [case …]`.

There are real workers, an embedded Redis, the provider sandbox, three keys of 300 calls a minute,
and more jobs than the keys allow. While the workers work, the case changes something. The judge is
the sandbox's ledger. The table shows: the accepted share of the allowed calls; seconds without any
call although jobs waited ("silent"; seconds in which no key could serve count as "closed"); the ten
seconds with the fewest calls; refused calls; and deferrals.
"""

import argparse
import os
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery import Celery
from rich.console import Console
from rich.table import Table

from benchmarks.drills.stack import ROOT, Stack, WorkerSlot
from benchmarks.waiting_cases import (
    BEGIN_S,
    CASES,
    JOBS,
    KEYS,
    MODELS,
    RPM,
    Run,
    behind,
    models,
)
from sandbox.process import Sandbox
from sandbox.redis import EmbeddedRedis

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
RETRY_RE = re.compile(rb"Retry in \d")


def _redis(home: Path, clock: Path | None) -> EmbeddedRedis:
    """Start a Redis that reads its time from a file."""
    server = EmbeddedRedis(data_dir=home / "redis")
    if clock is None:
        return server
    clock.write_text("+0\n")
    faked = dict.fromkeys(("FAKETIME_NO_CACHE", "FAKETIME_DONT_FAKE_MONOTONIC"), "1")
    faked |= {"DONT_FAKE_MONOTONIC": "1", "FAKETIME_TIMESTAMP_FILE": str(clock)}
    os.environ |= faked | {"LD_PRELOAD": str(FAKETIME)}
    try:
        return server.start()
    finally:
        for name in (*faked, "LD_PRELOAD"):
            del os.environ[name]


@contextmanager
def open_stack(workers: int) -> Iterator[Run]:
    """Start Redis, the sandbox and workers."""
    account = {"keys": 1, "rpm": RPM, "rpd": 0, "tpm": 0, "tpd": 0}
    # One case adds the last key; in the other cases the workers do not know it.
    accounts = {"groq": [{"account": f"org_{n}"} | account for n in range(KEYS + 1)], "resend": []}
    with tempfile.TemporaryDirectory(prefix="keywheel-bench-") as folder:
        home = Path(folder)
        (home / "cwd").mkdir()
        clock = home / "clock" if FAKETIME else None
        with (
            _redis(home, clock) as server,
            Sandbox(accounts=accounts, groq_latency_ms=180, groq_jitter_ms=20) as sandbox,
        ):
            environ = dict(os.environ) | sandbox.env()
            environ |= {"REDIS_URL": server.url, "PYTHONPATH": str(ROOT)}
            spare = sandbox.keys("groq")[-1]
            environ = {name: value for name, value in environ.items() if value != spare}
            slots = [WorkerSlot(f"w{n}", home / f"w{n}.log") for n in range(workers)]
            stack = Stack(server, sandbox, environ, home / "cwd", slots)
            stack.fill()
            try:
                stack.await_ready()
                yield Run(stack, Celery(broker=server.url, backend=server.url), clock=clock)
            finally:
                for slot in slots:
                    if slot.process is not None and slot.process.poll() is None:
                        os.killpg(slot.process.pid, signal.SIGCONT)
                        os.killpg(slot.process.pid, signal.SIGKILL)
                        slot.process.wait()


def cpu_s(stack: Stack) -> float:
    """Return the CPU time that the workers have used."""
    used = 0.0
    for slot in stack.slots:
        if slot.process is not None:
            fields = Path(f"/proc/{slot.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
            used += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return used


def measure(
    case: Callable[[Run, float], None], *, workers: int, seconds: float, jobs: int
) -> dict[str, Any]:
    """Run one case."""
    with open_stack(workers) as run:
        before_s = cpu_s(run.stack)
        if case is models:
            run.send(2 * (jobs + RPM), models=MODELS)
        else:
            run.send(jobs + RPM if case is behind else jobs)
        began_s = time.monotonic()
        time.sleep(BEGIN_S)
        case(run, began_s + seconds)
        time.sleep(max(0.0, began_s + seconds - time.monotonic()))
        calls = run.stack.sandbox.ledger(full=True)["calls"]
        spent_s = cpu_s(run.stack) - before_s
        log = b"".join(slot.log.read_bytes() for slot in run.stack.slots)
        return judge(run, calls, seconds=seconds, log=log) | {"cpu_ms": spent_s * 1000}


def judge(run: Run, calls: list[dict[str, Any]], *, seconds: float, log: bytes) -> dict[str, Any]:
    """Compare the calls with what the keys allowed."""
    first_s = min(call["arrived_s"] for call in calls)
    accepted = [call["arrived_s"] - first_s for call in calls if call["accepted"]]
    accepted = [at_s for at_s in accepted if at_s < seconds]
    refused = [call["arrived_s"] - first_s for call in calls if str(call["status"]) == "429"]
    later = sum(at_s > BEGIN_S for at_s in refused)
    counts = Counter(int(call["arrived_s"] - first_s) for call in calls)
    by_second = [counts[second] for second in range(int(seconds) + 1)]
    jobs = len(run.ids) - run.gone
    last_s = int(seconds if len(accepted) < jobs - 20 else max(accepted))
    allowed = min(jobs, KEYS * RPM * (1 + last_s / 60) + run.extra)
    steady_s = KEYS * RPM / 60
    closed = [run.is_closed(first_s + second) for second in range(last_s)]
    silent = [by_second[second] == 0 for second in range(last_s)]
    tens = [
        sum(by_second[at : at + 10])
        for at in range(int(BEGIN_S), last_s - 10)
        if not any(closed[at : at + 10])
    ]
    return {
        "accepted": len(accepted),
        "of allowed": len(accepted) / allowed,
        "refused": len(refused) / max(1, len(accepted)),
        "of them later": later / max(1, len(accepted)),
        "silent s": sum(silent) - sum(map(all, zip(silent, closed, strict=True))),
        "closed s": sum(closed),
        "idlest 10 s": 1 - min(tens, default=0) / (10 * steady_s),
        "unserved": sum(not run.app.AsyncResult(job).successful() for job in run.must),
        "deferrals": len(RETRY_RE.findall(log)) / max(1, len(accepted)),
        "last 10 s": sum(by_second[last_s - 10 : last_s]) / 10,
    }


def main() -> int:
    """Parse the command line, run the cases, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [case.__name__ for case in CASES]
    parser.add_argument("cases", nargs="*", help=f"which of {', '.join(names)} (default: all)")
    parser.add_argument(
        "--seconds", type=float, default=60, help="length of each run (default: 60)"
    )
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: 2)")
    parser.add_argument(
        "--jobs", type=int, default=JOBS, help=f"jobs at the start (default: {JOBS})"
    )
    args = parser.parse_args()
    args.cases = args.cases or names
    if unknown := sorted(set(args.cases) - set(names)):
        parser.error(f"no such case: {', '.join(unknown)}")
    console, table = Console(), Table()
    rows = []
    for case in CASES:
        if case.__name__ not in args.cases:
            continue
        console.print(f"{case.__name__}: {case.__doc__}")
        result = measure(case, workers=args.workers, seconds=args.seconds, jobs=args.jobs)
        result["cpu_ms"] /= max(1, result["accepted"])
        rows.append((case.__name__, result))
        console.print("    " + ", ".join(f"{name} {value:.3f}" for name, value in result.items()))
    for name in ("case", *rows[0][1]):
        table.add_column(name)
    for name, result in rows:
        table.add_row(name, *(f"{value:.3f}" for value in result.values()))
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
