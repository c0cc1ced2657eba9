"""Measures the cost of sending a job, by each way to send one: `python -m benchmarks.sending`.

Each way sends the same job; the ways take turns over several rounds. The wall time includes the
round trip to a Redis on the same machine; the CPU time is the producer's.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from celery import Celery

from sandbox.redis import EmbeddedRedis
from worker.aio.sending import Sender

_OURS = "worker.aio.transport:Transport"
_BACKEND = "worker.aio.backend:RedisBackend+"


def ways(url: str, jobs: int) -> dict[str, Callable[[], object]]:
    """Return the functions that send a number of jobs, by name."""
    kinds: dict[str, Callable[[], object]] = {}
    for kind, transport, backend in (("Celery's", None, url), ("our", _OURS, _BACKEND + url)):
        app = Celery("sending", broker=url, backend=backend, set_as_current=False)
        if transport:
            app.conf.broker_transport = transport
        signature, sender = app.signature("nothing", args=(1,)), Sender(app)
        kinds[f"apply_async, {kind} transport and backend"] = lambda signature=signature: [
            signature.apply_async() for _ in range(jobs)
        ]
        kinds[f"Sender.send, {kind} transport"] = lambda signature=signature, sender=sender: [
            sender.send(signature) for _ in range(jobs)
        ]
        kinds[f"Sender.send_many, {kind} transport"] = lambda signature=signature, sender=sender: (
            sender.send_many([signature] * jobs)
        )
    return kinds


def main() -> None:
    """Measure, and print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with EmbeddedRedis() as server:
        kinds = ways(server.url, options.jobs)
        wall: dict[str, list[float]] = {name: [] for name in kinds}
        cpu: dict[str, list[float]] = {name: [] for name in kinds}
        for round_ in range(options.rounds + 1):
            for name, send in kinds.items():
                began, used = time.perf_counter(), time.process_time()
                send()
                if round_:  # the first round connects and declares queues
                    wall[name].append(time.perf_counter() - began)
                    cpu[name].append(time.process_time() - used)
    for name in kinds:
        us = [1e6 * statistics.median(times[name]) / options.jobs for times in (wall, cpu)]
        print(f"{name:50s} {us[0]:6.0f} us a job, {us[1]:6.0f} us of CPU")


if __name__ == "__main__":
    main()
