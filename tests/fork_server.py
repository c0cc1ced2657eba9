"""Starts Python programs as forks of a process that has imported what most of them import.

Celery and the SDKs of the providers take two thirds of a worker's start, and a test run starts more
than a hundred. A fork is a process like any other: it leads a session, has its own environment and
folder, and imports all of our modules itself. `python -m tests.fork_server` is what forks.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

_IMPORTED = (
    "celery.apps.worker",
    "celery.backends.redis",
    "celery.events.state",
    "celery.worker.consumer",
    "groq",
    "httpx_aiohttp",
    "kombu.transport.redis",
    "pydantic_settings",
    "redis.asyncio",
    "resend",
)
"""Modules of others. None of ours, which read settings, and no command line."""

_ROOT = str(Path(__file__).resolve().parent.parent)
_READ_BY_THEM = ("OTEL_", "PYTHON", "SSL")
_PASSED_ON = {"PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}
_MEASURED = "COVERAGE_PROCESS_CONFIG"
_GIVEN = {name: value for name, value in os.environ.items() if name != _MEASURED}
_LARGEST = 1 << 17


def can_fork(environ: dict[str, str]) -> bool:
    """Whether a fork with this environment is what a new interpreter would be."""
    read = {name for name in {*environ, *_GIVEN} if name.startswith(_READ_BY_THEM)} - _PASSED_ON
    alike = all(environ.get(name) == _GIVEN.get(name) for name in read)
    return sys.platform == "linux" and alike and _MEASURED not in environ


class Fork(subprocess.Popen[bytes]):
    """`subprocess.Popen` of `[sys.executable, "-m", …]`, whose parent is the fork server."""

    def _execute_child(self, args: Any, *options: Any) -> None:
        # Each Python since 3.11 passes them in this order.
        _, _, _, _, cwd, environ, _, _, _, _, _, _, output, _, error, *_ = options
        self._end, end = os.pipe()
        request = {"arguments": args[2:], "folder": str(cwd), "environ": environ}
        try:
            socket.send_fds(_server(), [json.dumps(request).encode()], [end, output, error])
            self.pid = int(_server().recv(_LARGEST))
        finally:
            os.close(end)
        self._child_created = True

    def poll(self) -> int | None:
        """Say how it ended, if it has."""
        if self.returncode is None and select.select([self._end], [], [], 0)[0]:
            self._note_end()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            TimeoutExpired: It has not ended by then.
        """
        if self.returncode is None:
            if not select.select([self._end], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self._note_end()
        return self.returncode

    def _note_end(self) -> None:
        self.returncode = int(os.read(self._end, _LARGEST) or -signal.SIGKILL)
        os.close(self._end)


@cache
def _server() -> socket.socket:
    """Start the process that forks, which ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fork_server", str(theirs.fileno())],
            env=_GIVEN | {"PYTHONPATH": _ROOT, "PYTHONUNBUFFERED": "1"},
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )

    def stop() -> None:
        ours.close()
        process.wait()

    atexit.register(stop)
    return ours


def _serve(connection: socket.socket) -> None:
    while True:
        request, fds, _, _ = socket.recv_fds(connection, _LARGEST, 3)
        if not request:
            return
        end, output, error = fds
        told, tells = os.pipe()
        if os.fork() == 0:
            if (pid := os.fork()) == 0:
                for fd in (connection.detach(), end, told, tells):
                    os.close(fd)
                _become(output, error, **json.loads(request))
                return
            os.write(tells, str(pid).encode())
            _, status = os.waitpid(pid, 0)
            os.write(end, str(os.waitstatus_to_exitcode(status)).encode())
            os._exit(0)
        connection.send(os.read(told, _LARGEST))
        for fd in (told, tells, *fds):
            os.close(fd)
        _bury()


def _bury() -> None:
    """Take note of those that have ended, for the sake of what measures CPU."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _become(
    output: int, error: int, *, arguments: list[str], folder: str, environ: dict[str, str]
) -> None:
    os.setsid()
    for source, target in ((output, 1), (error, 2)):
        os.dup2(source, target)
    for fd in {output, error}:
        os.close(fd)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    time.tzset()
    given = environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [folder, *filter(None, given), *sys.path[2:]]  # the server's own had two before
    importlib.invalidate_caches()
    sys.argv[:] = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def _main() -> None:
    sys.modules["pygments"] = None  # type: ignore[assignment] # see worker/__main__.py
    for module in _IMPORTED:
        importlib.import_module(module)
    del sys.modules["pygments"]
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        _serve(connection)


if __name__ == "__main__":
    _main()
