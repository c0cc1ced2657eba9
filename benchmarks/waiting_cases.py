"""The cases of `python -m benchmarks.waiting`: changes that happen while jobs wait for a key."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from celery import Celery

from benchmarks.drills.stack import Stack

RPM, KEYS, JOBS = 300, 3, 1_700
MODELS = "openai/gpt-oss-120b", "openai/gpt-oss-20b"
BEGIN_S = 15.0
"""By then the burst is used up, so that the change meets a steady state."""


@dataclass
class Run:
    """One run of a case.

    Attributes:
        stack: Redis, sandbox and workers.
        app: The producer.
        ids: The jobs that were sent.
        gone: The number of jobs that were revoked.
        extra: Calls that the case allows beyond the keys' limits at the start (negative: fewer).
    """

    stack: Stack
    app: Celery
    ids: list[str] = field(default_factory=list)
    gone: int = 0
    extra: float = 0.0
    closed: list[tuple[float, float]] = field(default_factory=list)
    """When no key could serve: from and until, in seconds since 1970."""
    must: list[str] = field(default_factory=list)
    """Jobs that must be served by the end."""
    clock: Path | None = None
    """The file that sets Redis' clock; None if libfaketime is not installed."""

    def close(self, seconds: float) -> None:
        """Note that no key can serve for some seconds from now on."""
        self.closed.append((time.time(), time.time() + seconds))
        self.extra -= seconds * KEYS * RPM / 60

    def is_closed(self, second_s: float) -> bool:
        """Whether no key could serve during a whole second or the second before."""
        return any(
            from_s <= second_s + 1 and second_s <= until_s for from_s, until_s in self.closed
        )

    def send(self, count: int, **options: Any) -> list[str]:
        """Enqueue completions; return their ids."""
        kwargs: dict[str, Any] = {"prompt": "Say hello", "max_completion_tokens": 20}
        turns = cycle(options.pop("models", MODELS[:1]))
        with (
            self.app.connection_for_write() as connection,
            self.app.amqp.producer_pool.acquire(block=True) as producer,
        ):
            there = {"producer": producer, "connection": connection, "queue": "ai"} | options
            sent = [
                self.app.send_task(
                    "tasks.ai.complete", kwargs=kwargs | {"model": next(turns)}, **there
                ).id
                for _ in range(count)
            ]
        self.ids += sent
        return sent

    def keys(self, *command: str) -> None:
        """Run `celery -A worker keys …`."""
        done = subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", "celery", "-A", "worker", "keys", *command],
            cwd=self.stack.folder, env=self.stack.environ, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stderr)


def every(until_s: float, pause_s: float, act: Callable[[], Any]) -> None:
    """Repeat an action until the end."""
    while time.monotonic() < until_s:
        act()
        time.sleep(pause_s)


def resets(run: Run, until_s: float) -> None:
    """Run `keys reset` every 5 s."""
    every(until_s, 5, lambda: run.keys("reset", "--service", "groq"))


def resets_of_one(run: Run, until_s: float) -> None:
    """Run `keys reset` for one key after the other, every 3 s."""
    ids = cycle([key["id"] for key in json.loads(_status(run))["groq"]["keys"]])
    every(until_s, 3, lambda: run.keys("reset", "--service", "groq", "--key", next(ids)))


def resets_of_all(run: Run, until_s: float) -> None:
    """Run `keys reset` for all services again and again, at most about once a second."""
    every(until_s, 0.1, lambda: run.keys("reset"))


def join(run: Run, until_s: float) -> None:
    """Add a key."""
    (run.stack.folder / ".env").write_text(f"GROQ_API_KEY_9={run.stack.sandbox.keys('groq')[-1]}\n")
    run.app.control.broadcast("keys_reload", reply=True, timeout=1)
    run.extra = RPM * (1 + (until_s - time.monotonic()) / 60)


def reload(run: Run, until_s: float) -> None:
    """Reload the keys every 3 s."""
    every(until_s, 3, lambda: run.app.control.broadcast("keys_reload", reply=True, timeout=1))


def disable(run: Run, _: float) -> None:
    """Disable a key for 10 s."""
    key = next(iter(json.loads(_status(run))["groq"]["keys"]))["id"]
    run.keys("disable", key, "--service", "groq")
    time.sleep(10)
    run.keys("reset", "--service", "groq", "--key", key)
    run.extra = -10 * RPM / 60


def _status(run: Run) -> str:
    return subprocess.run(
        [sys.executable, "-m", "celery", "-A", "worker", "keys", "status", "--json"],
        cwd=run.stack.folder, env=run.stack.environ, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip


def revoke(run: Run, _: float) -> None:
    """Revoke 500 of the waiting jobs."""
    run.app.control.revoke(run.ids[-500:])
    run.gone = 500


def kill(run: Run, _: float) -> None:
    """Kill and replace a worker."""
    slot = run.stack.slots[0]
    assert slot.process is not None  # noqa: S101 - it was started
    os.killpg(slot.process.pid, signal.SIGKILL)
    slot.process.wait()
    slot.process = None
    run.stack.fill()


def freeze(run: Run, _: float) -> None:
    """Stop a worker for 10 s with SIGSTOP."""
    process = run.stack.slots[0].process
    assert process is not None  # noqa: S101 - it was started
    os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(10)
    os.killpg(process.pid, signal.SIGCONT)


def raised(run: Run, _: float) -> None:
    """Triple the provider's limits."""
    run.stack.sandbox.control("limits", service="groq", rpm=3 * RPM)


def lowered(run: Run, until_s: float) -> None:
    """Halve the provider's limits."""
    run.stack.sandbox.control("limits", service="groq", rpm=RPM // 2)
    # New buckets are full.
    run.extra = KEYS * RPM / 2 * (1 - (until_s - time.monotonic()) / 60)


def bulk(run: Run, _: float) -> None:
    """Add 5,000 bulk jobs."""
    run.send(5_000, priority=9)


def rest(run: Run, _: float) -> None:
    """Make all keys rest for 12 s."""
    run.close(12)
    run.stack.sandbox.control("exhaust", service="groq", seconds=12)


def outage(run: Run, _: float) -> None:
    """Make the provider fail for all calls for 20 s."""
    run.close(20)
    run.stack.sandbox.control("fault", service="groq", status=500, seconds=20)


def models(run: Run, until_s: float) -> None:
    """Send every other job to a model whose calls are all refused for the rest of the run."""
    left_s = until_s - time.monotonic()
    run.extra = KEYS * RPM * (1 + BEGIN_S / 60)  # what the other model allowed until now
    run.stack.sandbox.control(
        "fault", service="groq", model=MODELS[1], status=429, retry_after_s=30, seconds=left_s
    )


def behind(run: Run, until_s: float) -> None:
    """Add as many jobs for another model behind the waiting ones."""
    run.send(JOBS + RPM, models=MODELS[1:])
    run.extra = KEYS * RPM * (1 + (until_s - time.monotonic()) / 60)


def huge(run: Run, until_s: float) -> None:
    """Make tokens scarce, and send one job that needs most of a minute's tokens."""
    run.stack.sandbox.control("limits", service="groq", rpm=RPM, tpm=4_500)
    run.must += run.send(1, prompt="Say hello", max_completion_tokens=4_000)
    # A small job takes some 22 tokens.
    run.extra = KEYS * (4_500 / 22 - (RPM - 4_500 / 22) * (until_s - time.monotonic()) / 60)


def clock_back(run: Run, _: float) -> None:
    """Set Redis' clock back by ten minutes."""
    _set_clock(run, "-10m")


def clock_on(run: Run, _: float) -> None:
    """Set Redis' clock forward by ten minutes."""
    _set_clock(run, "+10m")


def clock_jitters(run: Run, until_s: float) -> None:
    """Set Redis' clock back and forward by three seconds, every two seconds."""
    steps = cycle(("-3s", "+0", "+3s", "+0"))
    every(until_s, 2, lambda: _set_clock(run, next(steps)))


def _set_clock(run: Run, offset: str) -> None:
    if run.clock is None:
        raise SystemExit("libfaketime is not installed (Debian: libfaketime)")
    run.clock.write_text(offset + "\n")


def redis_stops(run: Run, _: float) -> None:
    """Stop Redis for 10 s, in which the limits refill."""
    run.closed.append((time.time(), time.time() + 10))
    run.stack.hang_redis(hang_s=10)


def redis_restarts(run: Run, _: float) -> None:
    """Kill Redis, and start it after 10 s, in which the limits refill."""
    run.closed.append((time.time(), time.time() + 10))
    run.stack.restart_redis(kill=True, away_s=10)


def steady(_run: Run, _: float) -> None:
    """Change nothing."""


CASES = (
    steady,
    resets,
    resets_of_one,
    resets_of_all,
    reload,
    join,
    disable,
    revoke,
    kill,
    freeze,
    raised,
    lowered,
    bulk,
    rest,
    outage,
    models,
    behind,
    huge,
    clock_back,
    clock_on,
    clock_jitters,
    redis_stops,
    redis_restarts,
)
