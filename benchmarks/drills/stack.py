"""The stack that the drills break.

It is an embedded Redis, the provider sandbox, and workers that are killed and replaced.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from config.settings import variables
from sandbox.process import Sandbox
from sandbox.redis import EmbeddedRedis

ROOT = Path(__file__).resolve().parents[2]
READY_S = 60.0
_STOP_S = 30.0
_LEASE_FIELD = "worker_lease_s"  # older versions lack this setting


def settings(*, visibility_s: int, lease_s: int, deadline_s: int) -> dict[str, str]:
    """The workers' settings: short times, so that minutes show what usually takes an hour."""
    wanted = {
        # The difference of the two times is longer than any outage of Redis: jobs that are stopped
        # must be able to go back to their queue.
        "task_time_limit_s": visibility_s // 3,
        "groq_timeout_s": 3,
        "resend_timeout_s": 3,
        "max_retries": 12,
        "retry_backoff_s": 0.05,
        "deadline_s": deadline_s,
        "worker_concurrency": 200,
        _LEASE_FIELD: lease_s,
    }
    names = {"_".join(path[-2:]): variable for path, variable in variables().items()}
    return {names[name]: str(value) for name, value in wanted.items() if name in names}


def accounts(*, quota: int, rps: int) -> dict[str, Any]:
    """Accounts with wide limits, so that limits are not the trouble.

    Only the third team has a small daily quota.
    """
    organisation = {"keys": 1, "rpm": 60_000, "rpd": 0, "tpm": 0, "tpd": 0}
    teams = [
        {"account": f"team-{n}", "keys": 2, "rps": rps, "daily": 0, "monthly": 0} for n in (1, 2)
    ]
    teams.append({"account": "team-3", "keys": 1, "rps": rps, "daily": quota, "monthly": 0})
    return {
        "groq": [{"account": f"org_{n}"} | organisation for n in range(4)],
        "resend": [team | {"domains": [f"{team['account']}.example.net"]} for team in teams],
    }


TEAM_OF = {"": "team-1", "_2": "team-1", "_3": "team-2", "_4": "team-2", "_5": "team-3"}
"""The team of each Resend key: Resend does not report it, so the settings have it."""

FAULTS = (
    ("2 % cut before the provider accepted", {"kind": "reset_before", "share": 0.02}),
    ("2.5 % answered 5xx instead of accepted", {"status": 500, "share": 0.025}),
    ("2 % cut after the provider accepted", {"kind": "reset_after", "share": 0.02}),
    ("2.5 % answered 5xx after accepting", {"kind": "error_after", "status": 500, "share": 0.025}),
)


@dataclass
class WorkerSlot:
    """A slot for a worker, which may be killed and is then replaced.

    Attributes:
        name: The worker's name, the same for each worker in this slot.
        log: One log for all workers in this slot.
        environ: Environment variables of this worker, in addition to those of all workers.
        began_at: The length of the log when the present worker started, in bytes.
    """

    name: str
    log: Path
    process: "subprocess.Popen[bytes] | None" = None
    environ: dict[str, str] = field(default_factory=dict)
    began_at: int = 0

    @property
    def running(self) -> bool:
        """Whether a worker runs here."""
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """Kill the worker as an out-of-memory killer would."""
        if self.process is not None and self.running:
            self.process.kill()
            self.process.wait()
        self.process = None

    def signal(self, number: int) -> None:
        """Send the worker a signal."""
        if self.process is not None and self.running:
            self.process.send_signal(number)

    @property
    def memory_mb(self) -> float:
        """The resident memory of the worker, in MB; 0 if none runs."""
        if self.process is None:
            return 0.0
        try:
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        except OSError:  # the worker has just ended
            return 0.0
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass
class Stack:
    """Redis, the sandbox and the workers.

    Attributes:
        kills: How many workers were killed.
        replaced: How many workers were asked to end and replaced while they finished their jobs.
        deaths: The workers that ended by themselves, with their exit codes.
        restarts: How often Redis was restarted.
    """

    redis: EmbeddedRedis
    sandbox: Sandbox
    environ: dict[str, str]
    folder: Path
    slots: list[WorkerSlot]
    kills: int = 0
    replaced: int = 0
    leaving: "list[subprocess.Popen[bytes]]" = field(default_factory=list)
    deaths: list[str] = field(default_factory=list)
    restarts: int = 0
    _restarting: threading.Thread | None = None

    def fill(self) -> None:
        """Start a worker in each free slot."""
        for slot in self.slots:
            if slot.process is not None and (code := slot.process.poll()) is not None:
                last = log_tail(slot.log.read_text(errors="replace"))
                self.deaths.append(
                    "\n".join((f"{slot.name} ended with {code}; the end of its log:", *last))
                )
                slot.process = None
            if slot.process is None:
                command = [
                    sys.executable,
                    "-m",
                    "celery",
                    "-A",
                    "worker",
                    "worker",
                    "-n",
                    f"{slot.name}@chaos",
                ]
                with slot.log.open("ab") as sink:
                    slot.began_at = sink.tell()
                    slot.process = subprocess.Popen(  # noqa: S603 - our own worker
                        command,
                        cwd=self.folder,
                        env=self.environ | slot.environ,
                        stdout=sink,
                        stderr=sink,
                        start_new_session=True,
                    )

    def await_ready(self) -> None:
        """Wait until every worker is ready.

        Raises:
            RuntimeError: A worker did not start.
        """
        deadline = time.monotonic() + READY_S
        for slot in self.slots:
            while b" ready." not in slot.log.read_bytes()[slot.began_at :]:
                if (
                    time.monotonic() > deadline
                    or slot.process is None
                    or slot.process.poll() is not None
                ):
                    raise RuntimeError(
                        f"{slot.name} did not start:\n"
                        f"{slot.log.read_text(errors='replace')[-2000:]}"
                    )
                time.sleep(0.1)

    def kill_one(self, rng: random.Random) -> str:
        """Kill a worker as an out-of-memory killer would; return its name."""
        slot = rng.choice(self.slots)
        self.kills += slot.running
        slot.kill()
        return slot.name

    def replace_one(self, rng: random.Random) -> str:
        """Ask a worker to end, as an upgrade does, and free its slot at once for another one.

        Return the worker's name.
        """
        slot = rng.choice(self.slots)
        self.dismiss(slot)
        return slot.name

    def dismiss(self, slot: WorkerSlot) -> None:
        """Ask a worker to end; its slot is free at once."""
        if slot.process is not None and slot.running:
            slot.process.terminate()
            self.leaving.append(slot.process)
            self.replaced += 1
        slot.process = None

    def forget_pool(self, service: str) -> None:
        """Delete the pool's state of a service's keys."""
        with redis.Redis.from_url(self.redis.url) as client:
            for name in client.scan_iter(f"{{kw:{service}}}*", count=1_000):
                client.delete(name)

    def flush_scripts(self) -> None:
        """Remove all scripts from Redis."""
        with redis.Redis.from_url(self.redis.url) as client:
            client.script_flush()

    def hang_redis(self, *, hang_s: float) -> None:
        """Make Redis accept connections and answer nothing for a while; return at once."""

        def hang() -> None:
            if self.redis.pid is not None:
                os.kill(self.redis.pid, signal.SIGSTOP)
                time.sleep(hang_s)
                os.kill(self.redis.pid, signal.SIGCONT)

        self._restarting = threading.Thread(target=hang)
        self._restarting.start()

    def restart_redis(self, *, kill: bool, away_s: float) -> None:
        """Stop Redis for a while, then start it with the same data.

        Return at once.
        """

        def restart() -> None:
            self.redis.stop(kill=kill)
            time.sleep(away_s)
            self.redis.start()

        self.restarts += 1
        self._restarting = threading.Thread(target=restart)
        self._restarting.start()

    def await_redis(self) -> None:
        """Wait until Redis neither restarts nor hangs."""
        if self._restarting is not None:
            self._restarting.join()

    def logs(self) -> str:
        """The logs of all workers."""
        return "".join(slot.log.read_text(errors="replace") for slot in self.slots)

    def stop(self) -> None:
        """End every worker."""
        running = [slot.process for slot in self.slots if slot.process is not None and slot.running]
        running += [process for process in self.leaving if process.poll() is None]
        for process in running:
            process.terminate()
        for process in running:
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def log_tail(log: str) -> list[str]:
    """Return the last log lines of a worker without INFO and DEBUG.

    Its jobs may go on ending for seconds after it gave up.
    """
    return [line for line in log.splitlines() if " INFO " not in line and " DEBUG " not in line][
        -40:
    ]


@contextmanager
def run_stack(
    folder: Path, *, workers: int, accounts: dict[str, Any], settings: dict[str, str], seed: int
) -> Iterator[Stack]:
    """Start everything; all of it ends with the block."""
    # All that Redis has confirmed is on disk, so not even its death loses anything.
    options = {"appendfsync": "always"}
    with (
        EmbeddedRedis(data_dir=folder / "redis", options=options) as server,
        Sandbox(
            accounts=accounts, groq_latency_ms=150, groq_jitter_ms=100, resend_latency_ms=100,
            resend_jitter_ms=100, seed=seed,
        ) as sandbox,
    ):  # fmt: skip
        teams = {f"RESEND_ACCOUNT{suffix}": team for suffix, team in TEAM_OF.items()}
        environ = os.environ | {
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "KEYWHEEL_CHECK_KEYS_S": "0",
        }
        environ |= sandbox.env() | teams | {"REDIS_URL": server.url} | settings
        slots = [
            WorkerSlot(f"w{number}", folder / f"w{number}.log") for number in range(1, workers + 1)
        ]
        made = Stack(server, sandbox, environ, folder, slots)
        try:
            made.fill()
            made.await_ready()
            yield made
        finally:
            made.await_redis()
            made.stop()
