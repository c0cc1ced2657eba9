"""Measures what drawing a key adds to a call of Groq's SDK.

`python -m benchmarks.clients`.

Both the bare SDK and the SDK with Keywheel call the sandbox from a process of their own, 40 calls
at a time, in interleaved rounds. The figure is the CPU time of that process for each call, without
its start.
"""

import argparse
import asyncio
import os
import resource
import statistics
import subprocess
import sys
from typing import Any

import groq

from sandbox.process import Sandbox
from sandbox.redis import EmbeddedRedis

_MODEL = "openai/gpt-oss-20b"
_WIDTH = 40
_LATENCY_MS = 100
_WARM_UP = 3
_KINDS = ("bare", "rotating")


def _client(kind: str) -> groq.AsyncGroq:
    if kind == "bare":
        return groq.AsyncGroq(base_url=os.environ["GROQ_BASE_URL"], max_retries=0)
    from worker.clients import groq_client  # noqa: PLC0415 - the bare SDK does without

    return groq_client()


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _call(kind: str, calls: int) -> float:
    """Make calls; returns the CPU time of one, in milliseconds."""
    client = _client(kind)
    messages: list[Any] = [{"role": "user", "content": "hello"}]

    async def call(times: int) -> None:
        for _ in range(times):
            await client.chat.completions.create(model=_MODEL, messages=messages)

    await asyncio.gather(*(call(_WARM_UP) for _ in range(_WIDTH)))
    began_s = _cpu_s()
    await asyncio.gather(*(call(calls // _WIDTH) for _ in range(_WIDTH)))
    return (_cpu_s() - began_s) * 1000 / calls


def _measure(kind: str, calls: int, environ: dict[str, str]) -> float:
    command = [sys.executable, __file__, "--kind", kind, "--calls", str(calls)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)  # noqa: S603
    return float(done.stdout)


def main() -> None:
    """Measure both, and print the medians and their difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2_000, help="calls of each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kind", choices=_KINDS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.kind:
        print(asyncio.run(_call(args.kind, args.calls)))
        return
    options = {"groq_rpm": 10**6, "groq_tpm": 0, "groq_rpd": 0, "groq_tpd": 0}
    with (
        EmbeddedRedis() as server,
        Sandbox(groq_keys=3, resend_keys=0, groq_latency_ms=_LATENCY_MS, **options) as sandbox,
    ):
        environ = os.environ | sandbox.env() | {"REDIS_URL": server.url}
        environ |= {"KEYWHEEL_GROQ_LIMITS": "rpm=1000000"}
        costs_ms: dict[str, list[float]] = {kind: [] for kind in _KINDS}
        for _ in range(args.rounds):
            for kind in _KINDS:
                costs_ms[kind].append(_measure(kind, args.calls, environ))
    medians = {kind: statistics.median(figures) for kind, figures in costs_ms.items()}
    for kind, median in medians.items():
        figures = ", ".join(f"{figure:.2f}" for figure in costs_ms[kind])
        print(f"{kind:<9} {median:.2f} ms of CPU a call ({figures})")
    print(f"rotating over bare: {medians['rotating'] / medians['bare']:.2f}")


if __name__ == "__main__":
    main()
