"""The environment of the demo: Redis, providers, workers, Flower, producer, and the clean-up."""

import asyncio
import os
import secrets
import shlex
import shutil
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
from demo.processes import ROOT, Child, Processes, tail
from sandbox.process import Sandbox, SandboxError
from sandbox.redis import EmbeddedRedis, free_port

_READY_TIMEOUT_S = 40.0
_POLL_S = 0.1
FLOWER_USER = "demo"

ResultT = TypeVar("ResultT")


@dataclass(slots=True)
class Flower:
    """Flower's address and its login."""

    port: int
    user: str
    password: str

    @property
    def url(self) -> str:
        """The address to open."""
        return f"http://127.0.0.1:{self.port}"


class DemoEnvironment:
    """Starts everything that the demo needs, and ends all of it, whatever happens.

    `close` may be called at any time, and twice.

    Args:
        plan: What to start.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._processes: Processes | None = None
        self._redis: EmbeddedRedis | None = None
        self._database: Database | None = None
        self._grace_shortened = False
        self.folder = Path()
        self.redis_url = ""
        self.sandbox = Sandbox(accounts=plan.accounts(), **plan.sandbox_options())
        self.flower = Flower(free_port(), FLOWER_USER, secrets.token_urlsafe(9))
        self.variables: dict[str, str] = {}
        """The environment variables of workers, Flower and producer."""
        self.namespace = f"demo-{secrets.token_hex(4)}"

    @property
    def logs(self) -> Path:
        """The folder with the logs."""
        return self.folder / "logs"

    @property
    def tool(self) -> Path:
        """A script that runs `celery -A worker …` with the demo's settings."""
        return self.folder / "keywheel"

    @property
    def processes(self) -> Processes:
        """The processes, once `open` has been called."""
        assert self._processes is not None, "open() was not called"  # noqa: S101 - a bug of ours
        return self._processes

    @property
    def workers(self) -> list[Child]:
        """The worker processes."""
        return [child for child in self.processes.children if child.name.startswith("worker")]

    def open(self) -> None:
        """Make the temporary folder."""
        self.folder = Path(tempfile.mkdtemp(prefix="keywheel-demo-"))
        # Programs that we start may make temporary folders, too; those belong into ours.
        tempfile.tempdir = str(self.folder)
        self.logs.mkdir()
        self._processes = Processes(self.folder, self.logs)
        self._processes.grace_shortened = self._grace_shortened

    async def start_servers(self) -> None:
        """Start Redis (or claim a database of `REDIS_URL` if it is set) and the providers.

        Raises:
            DemoError: One of them did not start.
        """
        await _uninterrupted(self._start_redis)
        await _uninterrupted(self._start_sandbox)
        self.variables = (
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
        self.processes.remember("Redis", self._redis.pid)

    def _start_sandbox(self) -> None:
        try:
            self.sandbox.start()
        except (SandboxError, OSError) as exc:
            raise DemoError(str(exc)) from exc
        self.processes.remember("the provider sandbox", self.sandbox.pid)

    def _write_tool(self) -> None:
        ours = {
            name: value for name, value in self.variables.items() if os.environ.get(name) != value
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
            self.spawn(f"worker {number}", ["-m", "worker", "-n", f"worker{number}@demo"])

    def start_flower(self) -> None:
        """Start Flower; returns at once."""
        self.spawn("Flower", ["-m", "celery", "-A", "worker", "flower"])

    def spawn(self, name: str, arguments: list[str], *, stdout: Path | None = None) -> Child:
        """Start a Python process with the demo's variables; see `Processes.spawn`."""
        return self.processes.spawn(name, arguments, variables=self.variables, stdout=stdout)

    async def wait_until_ready(self, say: Callable[[str], None]) -> None:
        """Wait until every worker takes jobs and Flower answers.

        Args:
            say: Called with the names of the processes that are not ready yet.

        Raises:
            DemoError: A process ended, or took too long.
        """
        deadline = time.monotonic() + _READY_TIMEOUT_S
        children = self.processes.children
        waiting = {child.name for child in children}
        while waiting:
            say(f"waiting for {', '.join(sorted(waiting))}")
            self.processes.check()
            if time.monotonic() > deadline:
                slow = next(child for child in children if child.name in waiting)
                raise DemoError(
                    f"{slow.name} was not ready within {_READY_TIMEOUT_S:g} s", tail(slow.log)
                )
            await asyncio.sleep(_POLL_S)
            for child in children:
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
        """Check that everything still runs; see `Processes.check`."""
        self.processes.check()

    def shorten_grace(self) -> None:
        """Shorten the time that `close` waits before it kills."""
        self._grace_shortened = True
        if self._processes is not None:
            self._processes.grace_shortened = True

    def close(self, *, keep_logs: bool = False) -> list[str]:
        """End every process and remove the folder.

        Args:
            keep_logs: Keep the logs, because something failed.

        Returns:
            The failures of the clean-up, one sentence each; empty if all went well.
        """
        if self._processes is not None:
            self._processes.end()
        self.sandbox.stop()
        left = self._release_database()
        if self._redis is not None:
            self._redis.stop()
        if self._processes is not None:
            left += self._processes.left()
        if self.folder.name:
            left += self._remove_files(keep_logs=keep_logs)
        if self._processes is not None:
            self._processes.stop_reaper()
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
        """Whether any log has a line."""
        return self.folder.name != "" and any(log.stat().st_size for log in self.logs.glob("*"))

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


async def _uninterrupted(start: Callable[[], ResultT]) -> ResultT:
    """Start something in a thread; a cancellation waits until the start has ended."""
    work = asyncio.ensure_future(asyncio.to_thread(start))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # retrieved and dropped: the cancellation counts
        raise
