"""Everything that the demo starts, and how it goes away again.

Redis, providers, workers, Flower, producer.
"""

import asyncio
import contextlib
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from redis.exceptions import RedisError

from demo.database import Database
from demo.errors import DemoError
from demo.plan import Plan, clean_environment
from sandbox.process import Sandbox, SandboxError
from sandbox.redis import EmbeddedRedis, free_port

ROOT = Path(__file__).resolve().parent.parent
_GRACE_S = 10.0
_HURRIED_GRACE_S = 2.0
_READY_S = 40.0
_POLL_S = 0.1
_TAIL_LINES = 15
FLOWER_USER = "demo"

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Child:
    """A process in a session of its own, with its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


@dataclass(slots=True)
class Flower:
    """Where Flower is and who may look."""

    port: int
    user: str
    password: str

    @property
    def url(self) -> str:
        """The address to open."""
        return f"http://127.0.0.1:{self.port}"


class Stage:
    """Starts processes and ends all of them, whatever happens.

    `close` may be called at any time, and twice.

    Args:
        plan: What to start.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._ours: dict[str, int] = {}
        self._children: list[Child] = []
        self._redis: EmbeddedRedis | None = None
        self._database: Database | None = None
        self._guard: subprocess.Popen[str] | None = None
        self._hurry = False
        self.folder = Path()
        self.redis_url = ""
        self.sandbox = Sandbox(accounts=plan.accounts(), **plan.sandbox_options())
        self.flower = Flower(free_port(), FLOWER_USER, secrets.token_urlsafe(9))
        self.environment: dict[str, str] = {}
        self.namespace = f"demo-{secrets.token_hex(4)}"

    @property
    def logs(self) -> Path:
        """The folder with the logs."""
        return self.folder / "logs"

    @property
    def tool(self) -> Path:
        """A script that runs `celery -A worker …` with the demo's settings."""
        return self.folder / "keywheel"

    def open(self) -> None:
        """Make the temporary folder."""
        self.folder = Path(tempfile.mkdtemp(prefix="keywheel-demo-"))
        # What we call may make folders of its own; they belong into ours.
        tempfile.tempdir = str(self.folder)
        self.logs.mkdir()
        self._guard = subprocess.Popen(  # noqa: S603 - our own file
            [sys.executable, "-I", "-S", str(ROOT / "demo" / "guard.py"), str(self.folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,
            text=True,
            cwd="/",
        )

    async def start_servers(self) -> None:
        """Start Redis (or claim a database where REDIS_URL is set) and the providers.

        Raises:
            DemoError: One did not start.
        """
        await _whole(self._start_redis)
        await _whole(self._start_sandbox)
        self.environment = (
            clean_environment()
            | self._plan.settings()
            | self.sandbox.env()
            | {
                "REDIS_URL": self.redis_url,
                "KEYWHEEL_NAMESPACE": self.namespace,
                "FLOWER_ADDRESS": "127.0.0.1",
                "FLOWER_PORT": str(self.flower.port),
                "FLOWER_BASIC_AUTH": f"{self.flower.user}:{self.flower.password}",
                "TMPDIR": str(self.folder),
                "PYTHONPATH": str(ROOT),
                "PYTHONUNBUFFERED": "1",
            }
        )
        self._write_tool()

    def _start_redis(self) -> None:
        if url := os.environ.get("REDIS_URL"):
            self._database = Database(url)
            self.redis_url = self._database.claim()
            return
        self._redis = EmbeddedRedis(data_dir=self.folder / "redis")
        try:
            self._redis.start()
        except (RuntimeError, OSError) as exc:
            raise DemoError(f"Redis did not start: {exc}") from exc
        self.redis_url = self._redis.url
        self._remember("Redis", self._redis.pid)

    def _start_sandbox(self) -> None:
        try:
            self.sandbox.start()
        except (SandboxError, OSError) as exc:
            raise DemoError(str(exc)) from exc
        self._remember("the provider sandbox", self.sandbox.pid)

    def _write_tool(self) -> None:
        ours = {
            name: value for name, value in self.environment.items() if os.environ.get(name) != value
        }
        lines = [
            "#!/bin/sh",
            "# celery -A worker … with the settings of this demo",
            f"cd {shlex.quote(str(self.folder))}",
        ]
        lines += [f"export {name}={shlex.quote(value)}" for name, value in sorted(ours.items())]
        lines.append(f'exec {shlex.quote(sys.executable)} -m celery -A worker "$@"')
        self.tool.touch(mode=0o700)
        self.tool.write_text("\n".join(lines) + "\n")

    def start_workers(self) -> None:
        """Start the worker processes; returns at once."""
        for number in range(1, self._plan.workers + 1):
            self.spawn(
                f"worker {number}",
                ["-m", "celery", "-A", "worker", "worker", "-n", f"worker{number}@demo"],
            )

    def start_flower(self) -> None:
        """Start Flower; returns at once."""
        self.spawn("Flower", ["-m", "celery", "-A", "worker", "flower"])

    def spawn(self, name: str, arguments: list[str], *, stdout: Path | None = None) -> Child:
        """Start a Python process in a session of its own, away from `.env` and the terminal.

        Args:
            name: For people.
            arguments: What comes after `python`.
            stdout: Where its output goes; default: into its log, with its errors.
        """
        log = self.logs / f"{name.replace(' ', '')}.log"
        with contextlib.ExitStack() as stack:
            errors = stack.enter_context(log.open("wb"))
            output = stack.enter_context(stdout.open("wb")) if stdout else errors
            process = subprocess.Popen(  # noqa: S603 - our own commands
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                # Ctrl-C in the terminal reaches us, and we decide when the others go.
                start_new_session=True,
                cwd=self.folder,
                env=self.environment,
            )
        child = Child(name, process, log)
        self._children.append(child)
        self._remember(name, process.pid)
        return child

    def _remember(self, name: str, pid: int | None) -> None:
        if pid is not None:
            self._ours[name] = pid
            self._tell_guard(str(pid))

    def _tell_guard(self, line: str) -> None:
        if self._guard is not None and self._guard.stdin is not None:
            with contextlib.suppress(OSError):
                print(line, file=self._guard.stdin, flush=True)

    @property
    def workers(self) -> list[Child]:
        """The workers among the children."""
        return [child for child in self._children if child.name.startswith("worker")]

    async def until_ready(self, say: Callable[[str], None]) -> None:
        """Wait until every worker takes jobs and Flower answers.

        Args:
            say: Is told, in a few words, what is awaited.

        Raises:
            DemoError: One ended or took too long.
        """
        deadline = time.monotonic() + _READY_S
        waiting = {child.name for child in self._children}
        while waiting:
            say(f"waiting for {', '.join(sorted(waiting))}")
            self.check()
            if time.monotonic() > deadline:
                slow = next(child for child in self._children if child.name in waiting)
                raise DemoError(f"{slow.name} was not ready within {_READY_S:g} s", tail(slow.log))
            await asyncio.sleep(_POLL_S)
            for child in self._children:
                if child.name in waiting and await self._is_ready(child):
                    waiting.discard(child.name)

    async def _is_ready(self, child: Child) -> bool:
        if child.name.startswith("worker"):
            return "@demo ready." in child.log.read_text(errors="replace")
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.flower.port)
        except OSError:
            return False
        writer.close()
        return True

    def check(self) -> None:
        """Look whether everything still runs.

        Raises:
            DemoError: Something ended that should not; it carries the end of its log.
        """
        for child in self._children:
            code = child.process.poll()
            if code is not None and not (child.name == "producer" and code == 0):
                raise DemoError(f"{child.name} ended unexpectedly ({_how(code)})", tail(child.log))
        for name, log in (
            ("Redis", "redis/redis.log"),
            ("the provider sandbox", "sandbox-*/stderr"),
        ):
            pid = self._ours.get(name)
            if pid is not None and _has_ended(pid):
                raise DemoError(
                    f"{name} ended unexpectedly", "\n".join(map(tail, self.folder.glob(log)))
                )

    def hurry(self) -> None:
        """Let `close` ask for a short time only before it kills."""
        self._hurry = True

    def close(self, *, keep_logs: bool = False) -> list[str]:
        """End every process and remove the folder.

        Args:
            keep_logs: Leave the logs, since something failed.

        Returns:
            What is left behind all the same, one sentence each; empty if all is well.
        """
        self._end_children()
        self.sandbox.stop()
        left = self._release_database()
        if self._redis is not None:
            self._redis.stop()
        left += [
            f"{name} still runs as process {pid}"
            for name, pid in self._ours.items()
            if _session_of(pid)
        ]
        if self.folder.name:
            left += self._remove_files(keep_logs=keep_logs)
        if self._guard is not None:
            self._tell_guard("done")
            with contextlib.suppress(OSError):
                self._guard.communicate(timeout=_GRACE_S)
            self._guard = None
        tempfile.tempdir = None
        return left

    def _remove_files(self, *, keep_logs: bool) -> list[str]:
        if not (keep_logs and self.has_logs):
            shutil.rmtree(self.folder, ignore_errors=True)
            return (
                [f"the folder {self.folder} could not be removed"] if self.folder.exists() else []
            )
        for part in self.folder.iterdir():
            if part.is_dir() and part != self.logs:
                shutil.rmtree(part, ignore_errors=True)
            elif part.is_file():
                part.unlink()
        return []

    @property
    def has_logs(self) -> bool:
        """Whether there is a log that says anything."""
        return self.folder.name != "" and any(log.stat().st_size for log in self.logs.glob("*"))

    def _end_children(self) -> None:
        children, self._children = self._children, []
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                child.process.terminate()
        started = time.monotonic()
        while any(child.process.poll() is None for child in children):
            if time.monotonic() - started > (_HURRIED_GRACE_S if self._hurry else _GRACE_S):
                break
            time.sleep(_POLL_S / 2)
        for child in children:
            # The whole group: a child may have children.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()

    def _release_database(self) -> list[str]:
        database, self._database = self._database, None
        if database is None:
            return []
        try:
            database.release()
        except RedisError as exc:
            return [
                (
                    "the demo's database in the Redis of REDIS_URL could not be emptied "
                    f"({type(exc).__name__})"
                )
            ]
        return []


async def _whole(start: Callable[[], ResultT]) -> ResultT:
    """Run a start in a thread.

    A cancellation waits for its end, so that what it started is known and can be ended.
    """
    work = asyncio.ensure_future(asyncio.to_thread(start))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # seen: the interruption is what counts
        raise


def tail(log: Path) -> str:
    """The last lines of a log."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
    except OSError:
        return ""


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _has_ended(pid: int) -> bool:
    """Whether a child has ended, without taking its exit code from who waits for it."""
    if not hasattr(os, "waitid"):
        return False
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _session_of(leader: int) -> list[int]:
    """The processes that are left of a session."""
    if not Path("/proc/self/stat").exists():
        try:
            os.killpg(leader, 0)
        except OSError:
            return []
        return [leader]
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.getsid(int(entry.name)) == leader:
                    found.append(int(entry.name))
    return found
