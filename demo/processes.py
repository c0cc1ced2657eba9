"""The processes of the demo: each has its own session and log, and all of them are ended."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from demo.errors import DemoError

ROOT = Path(__file__).resolve().parent.parent
_GRACE_S = 10.0
_SHORT_GRACE_S = 2.0
_POLL_S = 0.05
_TAIL_LINES = 15


@dataclass(frozen=True, slots=True)
class Child:
    """A process that leads a session of its own, and its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


class Processes:
    """Starts processes and ends all of them; if the demo is killed, a reaper ends them.

    Args:
        folder: The working folder of the processes, which the reaper removes.
        logs: The folder of their logs.
    """

    def __init__(self, folder: Path, logs: Path) -> None:
        self._folder = folder
        self._logs = logs
        self._pids: dict[str, int] = {}
        self._reaper: subprocess.Popen[str] | None = subprocess.Popen(  # noqa: S603 - our own file
            [sys.executable, "-I", "-S", str(ROOT / "demo" / "reaper.py"), str(folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,
            text=True,
            cwd="/",
        )
        self.children: list[Child] = []
        self.grace_shortened = False
        """Whether `end` waits only a short time before it kills."""

    def spawn(
        self,
        name: str,
        arguments: list[str],
        *,
        variables: dict[str, str],
        stdout: Path | None = None,
    ) -> Child:
        """Start a Python process in a session of its own, away from `.env` and the terminal.

        Args:
            name: The name that people see.
            arguments: The arguments of `python`.
            variables: Its environment variables.
            stdout: Where the process' output goes; default: into its log, with its errors.
        """
        log = self._logs / f"{name.replace(' ', '')}.log"
        with contextlib.ExitStack() as stack:
            errors = stack.enter_context(log.open("wb"))
            output = stack.enter_context(stdout.open("wb")) if stdout else errors
            process = subprocess.Popen(  # noqa: S603 - our own commands
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                # Ctrl-C in the terminal reaches the demo, which decides when to stop the others.
                start_new_session=True,
                cwd=self._folder,
                env=variables,
            )
        child = Child(name, process, log)
        self.children.append(child)
        self.remember(name, process.pid)
        return child

    def remember(self, name: str, pid: int | None) -> None:
        """Watch a process that another part of the demo has started."""
        if pid is not None:
            self._pids[name] = pid
            self._write_to_reaper(str(pid))

    def _write_to_reaper(self, line: str) -> None:
        if self._reaper is not None and self._reaper.stdin is not None:
            with contextlib.suppress(OSError):
                print(line, file=self._reaper.stdin, flush=True)

    def check(self) -> None:
        """Check that every process still runs.

        Raises:
            DemoError: A process ended too early; the error has the end of its log.
        """
        for child in self.children:
            code = child.process.poll()
            if code is not None and not (child.name == "producer" and code == 0):
                raise DemoError(
                    f"{child.name} ended unexpectedly ({_reason_of(code)})", tail(child.log)
                )
        for name, log in (
            ("Redis", "redis/redis.log"),
            ("the provider sandbox", "sandbox-*/stderr"),
        ):
            pid = self._pids.get(name)
            if pid is not None and _has_ended(pid):
                raise DemoError(
                    f"{name} ended unexpectedly", "\n".join(map(tail, self._folder.glob(log)))
                )

    def end(self) -> None:
        """End all children. A second call does nothing."""
        children, self.children = self.children, []
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                child.process.terminate()
        started = time.monotonic()
        while any(child.process.poll() is None for child in children):
            if time.monotonic() - started > (_SHORT_GRACE_S if self.grace_shortened else _GRACE_S):
                break
            time.sleep(_POLL_S)
        for child in children:
            # Signal the whole group, because a child may have children.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()

    def left(self) -> list[str]:
        """Return the processes that still run, in one sentence each."""
        return [
            f"{name} still runs as process {pid}"
            for name, pid in self._pids.items()
            if _session_of(pid)
        ]

    def stop_reaper(self) -> None:
        """End the reaper, because no process is left. A second call does nothing."""
        if self._reaper is None:
            return
        self._write_to_reaper("done")
        with contextlib.suppress(OSError):
            self._reaper.communicate(timeout=_GRACE_S)
        self._reaper = None


def tail(log: Path) -> str:
    """Return the last lines of a log."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
    except OSError:
        return ""


def _reason_of(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _has_ended(pid: int) -> bool:
    """Whether a child has ended; its parent can still read the exit code."""
    if not hasattr(os, "waitid"):
        return False
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _session_of(leader: int) -> list[int]:
    """Return the processes of a session that still run."""
    if not Path("/proc/self/stat").exists():
        try:
            os.killpg(leader, 0)
        except OSError:
            return []
        return [leader]
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.getsid(int(entry.name)) == leader:
                    pids.append(int(entry.name))
    return pids
