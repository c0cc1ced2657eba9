"""Measures how fast waiting emails are sent, and how long one email takes when idle.

`python -m benchmarks.batches`.

The emails wait in the queue before the workers start. The rate is measured from the first accepted
call to the last, by the sandbox's ledger.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celery import Celery

from sandbox.process import Sandbox
from sandbox.redis import EmbeddedRedis

RESULTS = Path(__file__).with_name("results")
_LONGEST_S = 55.0


@contextmanager
def workers(folder: Path, environment: dict[str, str], count: int) -> Iterator[list[Path]]:
    """Start workers with their default concurrency; yield the paths of their logs."""
    logs = [folder / f"w{number}.log" for number in range(count)]
    processes = []
    for number, log in enumerate(logs):
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "worker",
            "worker",
            "-n",
            f"w{number}@bench",
        ]
        with log.open("wb") as sink:
            processes.append(
                subprocess.Popen(command, cwd=folder, env=environment, stdout=sink, stderr=sink)  # noqa: S603
            )
    try:
        yield logs
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def mail(number: int) -> dict[str, Any]:
    """A typical email."""
    body = f"<p>Hello number {number}, your order is on its way.</p>" * 20
    return {"to": f"someone{number}@example.org", "subject": f"Order {number}", "html": body}


def enqueue(url: str, count: int) -> None:
    """Put the emails into the queue."""
    with (
        Celery("bench", broker=url, set_as_current=False) as app,
        app.producer_pool.acquire(block=True) as producer,
    ):
        for number in range(count):
            app.send_task(
                "tasks.email.send",
                kwargs=mail(number),
                queue="email",
                producer=producer,
                ignore_result=True,
            )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure once."""
    with (
        tempfile.TemporaryDirectory(prefix="keywheel-bench-") as name,
        EmbeddedRedis(data_dir=Path(name) / "redis") as server,
        Sandbox(
            resend_keys=args.accounts,
            resend_rps=args.rps,
            resend_daily=0,
            resend_monthly=0,
            resend_latency_ms=args.latency_ms,
        ) as sandbox,
    ):
        environment = (
            dict(os.environ)
            | sandbox.env()
            | {"REDIS_URL": server.url, "KEYWHEEL_CHECK_KEYS_S": "0"}
            | {"PYTHONPATH": str(Path(__file__).parents[1])}
        )
        enqueue(server.url, args.emails)
        began = time.monotonic()
        with workers(Path(name), environment, args.workers) as logs:
            ledger = sandbox.ledger()
            while (
                ledger["judgement"]["emails_accepted"] < args.emails
                and time.monotonic() - began < _LONGEST_S
            ):
                time.sleep(0.2)
                ledger = sandbox.ledger()
            found = judge(ledger)
            found["deferred"] = sum(
                log.read_text(errors="replace").count(": Deferred(") for log in logs
            )
            time.sleep(2)  # after a second every rate limit is at its start again
            found["idle_ms"] = round(statistics.median(idle(server.url)), 1)
        return vars(args) | found


def judge(ledger: dict[str, Any]) -> dict[str, Any]:
    """The figures from the ledger."""
    book = ledger["services"]["resend"]
    seconds = book["last_s"] - book["first_s"]
    accepted = ledger["judgement"]["emails_accepted"]
    return {
        "accepted": accepted,
        "calls": book["calls"],
        "refused_calls": book["by_status"].get("429", 0),
        "accepted_twice": ledger["judgement"]["emails_accepted_twice"],
        "seconds": round(seconds, 2),
        "emails_per_s": round(accepted / max(seconds, 0.001), 1),
    }


def idle(url: str) -> Iterator[float]:
    """The time from enqueueing to the result, one email at a time, in milliseconds.

    It includes the latency of the call itself.
    """
    with Celery("bench", broker=url, backend=url, set_as_current=False) as app:
        for number in range(8):
            began = time.monotonic()
            sent = app.send_task("tasks.email.send", kwargs=mail(10**6 + number), queue="email")
            sent.get(timeout=30)
            yield (time.monotonic() - began) * 1000
            time.sleep(0.5)


def main() -> int:
    """Parse the command line, measure, print and save the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--emails", type=int, default=5_000, help="emails that wait (default: 5000)"
    )
    parser.add_argument("--accounts", type=int, default=2, help="Resend teams (default: 2)")
    parser.add_argument(
        "--rps", type=int, default=5, help="calls a second that each team allows (default: 5)"
    )
    parser.add_argument(
        "--latency-ms", type=int, default=100, help="how long a call takes (default: 100)"
    )
    parser.add_argument("--workers", type=int, default=1, help="worker processes (default: 1)")
    found = run(parser.parse_args())
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"batches-{time.strftime('%Y%m%d-%H%M%S')}.json").open("w") as log:
        json.dump(found, log, indent=1)
    for name, value in found.items():
        print(f"{name:>16}: {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
