"""Measures whether tenants get fair turns, and the cost: `python -m benchmarks.tenants [case …]`.

- `delay`: a tenant sends ten jobs every few seconds, alone and beside 10,000 waiting jobs of
  another tenant. There are real workers, an embedded Redis and the provider sandbox. The burst of
  the keys is used up before each part. Bar: the 95th percentile is at most twice that of the
  tenant alone.
- `equal`: ten tenants with 200 jobs each, sent one tenant after the other. Bar: Jain's index of
  the jobs served for each tenant, while all of them wait, is at least 0.98.
- `pick`: CPU of Redis for each message that is put in order, taken and acknowledged, of one tenant
  and of 1,000, in turn. Bar: at most 15 % more.
"""

import argparse
import base64
import json
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from rich.console import Console

from benchmarks.drills.stack import ROOT, Stack, WorkerSlot
from keywheel_client import Keywheel
from sandbox.process import Sandbox
from sandbox.redis import EmbeddedRedis
from worker.aio.transport.scripts import FORGET, SHARE, TAKE

RPM, KEYS, WORKERS = 300, 3, 2
BACKLOG = 10_000
MESSAGES, ROUNDS = 3_000, 12
console = Console()


@contextmanager
def open_stack(workers: int = WORKERS) -> Iterator[Stack]:
    """Start Redis, the sandbox and workers."""
    account = {"keys": 1, "rpm": RPM, "rpd": 0, "tpm": 0, "tpd": 0}
    accounts = {"groq": [{"account": f"org_{n}"} | account for n in range(KEYS)], "resend": []}
    with tempfile.TemporaryDirectory(prefix="keywheel-bench-") as folder:
        home = Path(folder)
        (home / "cwd").mkdir()
        with (
            EmbeddedRedis(data_dir=home / "redis") as server,
            Sandbox(accounts=accounts, groq_latency_ms=1_500, groq_jitter_ms=500) as sandbox,
        ):
            environ = (
                dict(os.environ)
                | sandbox.env()
                | {"REDIS_URL": server.url, "PYTHONPATH": str(ROOT)}
            )
            slots = [WorkerSlot(f"w{n}", home / f"w{n}.log") for n in range(workers)]
            stack = Stack(server, sandbox, environ, home / "cwd", slots)
            stack.fill()
            try:
                stack.await_ready()
                yield stack
            finally:
                for slot in slots:
                    slot.kill()


def send(keywheel: Keywheel, tenant: str, count: int) -> list[str]:
    """Enqueue completions of a tenant in one round trip."""
    with keywheel.pipeline() as pipe:
        jobs = [
            pipe.complete("Say hello", max_completion_tokens=20, tenant=tenant)
            for _ in range(count)
        ]
    return [str(job) for job in jobs]


def await_end(keywheel: Keywheel, jobs: list[str]) -> None:
    """Wait until all jobs have ended."""
    while not all(keywheel.status(job).is_ended for job in reversed(jobs)):
        time.sleep(0.1)


def latencies(keywheel: Keywheel, *, times: int, pause_s: float) -> list[float]:
    """Send ten jobs again and again; return how long each took, in seconds."""
    waits_s = []
    for _ in range(times):
        began_s = time.monotonic()
        left = send(keywheel, "small", 10)
        while left:
            for job in [job for job in left if keywheel.status(job).is_ended]:
                waits_s.append(time.monotonic() - began_s)
                left.remove(job)
            time.sleep(0.02)
        time.sleep(max(0.0, began_s + pause_s - time.monotonic()))
    return waits_s


def p95(values: list[float]) -> float:
    """Return the 95th percentile."""
    return statistics.quantiles(values, n=20)[-1]


def delay() -> None:
    """Send ten jobs at a time, alone and beside 10,000 jobs of another tenant."""
    figures = {}
    for name, backlog in (("alone", KEYS * RPM), ("beside", KEYS * RPM + BACKLOG)):
        with open_stack() as stack, Keywheel(stack.redis.url) as keywheel:
            jobs = send(keywheel, "big", backlog)
            await_end(keywheel, jobs[: KEYS * RPM])  # the burst
            figures[name] = latencies(keywheel, times=12, pause_s=3)
            console.print(
                f"{name}: median {statistics.median(figures[name]):.2f} s,"
                f" 95th percentile {p95(figures[name]):.2f} s, worst {max(figures[name]):.2f} s"
            )
    console.print(f"    {p95(figures['beside']) / p95(figures['alone']):.2f} x; at most 2")


def equal() -> None:
    """Send the jobs of ten tenants, one tenant after the other."""
    with open_stack() as stack, Keywheel(stack.redis.url) as keywheel:
        await_end(keywheel, send(keywheel, "another", KEYS * RPM))  # the burst
        jobs = {f"tenant-{n}": send(keywheel, f"tenant-{n}", 200) for n in range(10)}
        every = [job for several in jobs.values() for job in several]
        while True:
            ended = {job for job in every if keywheel.status(job).is_ended}
            if 2 * len(ended) >= len(every):  # each tenant has jobs left
                break
            time.sleep(0.5)
        served = [sum(job in ended for job in several) for several in jobs.values()]
        index = sum(served) ** 2 / (len(served) * sum(count**2 for count in served))
        console.print(f"served of each: {served}")
        console.print(f"    Jain's index {index:.4f}; at least 0.98")


def message(tenant: str) -> str:
    """Write a message as an unmodified Celery producer does."""
    job = str(uuid.uuid4())
    kwargs = {"messages": [{"role": "user", "content": "x" * 400}]}
    return json.dumps(
        {
            "body": base64.b64encode(json.dumps([[], kwargs, {}]).encode()).decode(),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": {"task": "tasks.ai.complete", "id": job, "tenant": tenant},
            "properties": {
                "delivery_tag": str(uuid.uuid4()),
                "delivery_info": {"exchange": "", "routing_key": "ai"},
                "body_encoding": "base64",
            },
        }
    )


def cpu_s(client: Any) -> float:
    """Return the CPU time that Redis has used."""
    used = client.info("cpu")
    return float(used["used_cpu_user"] + used["used_cpu_sys"])


def picks(client: Any, tenants: int) -> float:
    """Return the CPU time of Redis for each message, in microseconds."""
    client.flushdb()
    with client.pipeline(transaction=False) as pipe:
        for number in range(BACKLOG):
            pipe.lpush("ai", message(f"tenant-{number % tenants}"))
        pipe.execute()
    entered = ("unacked", "unacked_index", "unacked.leases")

    def share() -> int:
        client.delete("ai.tenants.pause")
        left: int = client.eval(SHARE, 4, *entered, "ai", repr(time.time()), 120, 1, 90)
        return left

    while share() == 3 and client.llen("ai") > 128:  # noqa: PLR2004 - all are parted then
        pass
    before_s, taken = cpu_s(client), 0
    while taken < MESSAGES:
        _, sizes, tags, *_ = client.eval(
            TAKE, 5, *entered, "unacked.unreadable", "ai", 8, repr(time.time()), 1, 1,
            f"@abcdef01{taken:x}", 60, 1, 2_500,
        )  # fmt: skip
        lengths, at = [int(size) for size in sizes.split()[1::2]], 0
        names = []
        for length in lengths:
            names.append(tags[at : at + length])
            at += length
        client.eval(FORGET, 3, *entered, *names)
        taken += len(names)
        share()
    return (cpu_s(client) - before_s) / taken * 1e6


def pick() -> None:
    """Measure the cost of a pick in Redis, with one tenant and with 1,000."""
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedRedis(data_dir=Path(folder)) as server,
        redis.Redis.from_url(server.url) as client,
    ):
        picks(client, 1)  # warms up
        rounds = [(picks(client, 1), picks(client, 1_000)) for _ in range(ROUNDS)]
    # The least disturbed round of each: other programs on the machine take CPU cache from Redis.
    one, many = (min(values) for values in zip(*rounds, strict=True))
    console.print(f"one tenant: {one:.1f} µs a message, 1,000 tenants: {many:.1f} µs")
    console.print(f"    {100 * (many / one - 1):.0f} % more; at most 15 %")


CASES = {"delay": delay, "equal": equal, "pick": pick}


def main() -> None:
    """Parse the command line, and run the cases."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", help=f"which of {', '.join(CASES)} (default: all)")
    names = parser.parse_args().cases or list(CASES)
    if unknown := sorted(set(names) - set(CASES)):
        parser.error(f"no such case: {', '.join(unknown)}")
    for name in names:
        console.print(f"[bold]{name}[/bold] (load {os.getloadavg()[0]:.1f})")
        CASES[name]()


if __name__ == "__main__":
    main()
