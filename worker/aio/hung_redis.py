"""Lets a worker end although its Redis hangs: the sockets stay open, but no answer comes.

A command waits for up to half a minute, and a worker that ends sends several, one after the other.
So once the worker begins to end, a server that does not answer a command for a few seconds counts
as silent. The connections to a silent server are shut down, and new ones fail at once, as if the
server were down. Messages that could not be acknowledged are taken by other workers when their
leases end.

Connections with a short timeout, such as the connection that renews the leases, are left alone.
Their next answer shows that the server is back, and the server no longer counts as silent.
"""

import logging
import socket
import threading
import time
from collections.abc import Hashable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Final
from weakref import WeakSet

import redis
from celery import signals

logger = logging.getLogger(__name__)

SHORT_TIMEOUT_S: Final = 5.0
"""Connections whose timeout is at most this long are left alone."""
_SILENT_S: Final = 4.0
"""How long a command may wait for its answer once the worker begins to end, in seconds."""
_COLD_SILENT_S: Final = 1.0
"""How long a command may wait for its answer in a cold shutdown, in seconds."""
_STEP_S: Final = 0.25


class HungRedis:
    """The blocking connections of a process, and the servers that are silent while it ends.

    Args:
        silent_s: After how many seconds without an answer a server is silent.
    """

    def __init__(self, *, silent_s: float = _SILENT_S) -> None:
        self._silent_s = silent_s
        self._connections: WeakSet[Any] = WeakSet()
        self._lock = threading.RLock()  # a signal handler may interrupt its own thread in it
        # Not an event: its lock is not reentrant, and one signal handler may interrupt another.
        self._began = SimpleQueue[None]()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.silent: frozenset[Hashable] = frozenset()
        """The addresses of the silent servers; empty until the worker begins to end."""

    def enter(self, connection: Any) -> None:
        """Watch a connection that is about to be opened.

        Raises:
            redis.ConnectionError: The worker is ending, and the connection's server is silent.
        """
        with self._lock:
            self._connections.add(connection)
        if _is_watched(connection) and _address_of(connection) in self.silent:
            raise redis.ConnectionError("Redis does not answer, and this worker ends")

    def note_answer(self, connection: Any) -> None:
        """Note that a connection's server has answered."""
        self.silent -= {_address_of(connection)}

    def prepare(self) -> None:
        """Start the watching thread early, so that a signal handler need not start it."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="aio-hung-redis", daemon=True)
            self._thread.start()

    def begin(self, *, cold: bool = False) -> None:
        """Watch from now on: the worker ends. A second call can only make the shutdown cold."""
        if cold:
            self._silent_s = min(self._silent_s, _COLD_SILENT_S)
        self.prepare()
        self._began.put(None)

    def end(self) -> None:
        """Stop watching."""
        self._ended.set()
        self._began.put(None)

    def _run(self) -> None:
        self._began.get()
        while not self._ended.wait(_STEP_S):
            self._look()

    def _look(self) -> None:
        since_s = time.monotonic() - self._silent_s
        with self._lock:
            connections = list(self._connections)
        silent = {
            _address_of(connection)
            for connection in connections
            if connection.asked_s is not None and connection.asked_s < since_s
        }
        if new := silent - self.silent:
            self.silent |= new
            logger.warning(
                "Redis has not answered for %g s, so this worker ends without it: messages that "
                "are not acknowledged come back when their leases end",
                self._silent_s,
            )
        for connection in connections:
            if _is_watched(connection) and _address_of(connection) in self.silent:
                _shut_down(connection)


def _address_of(connection: Any) -> Hashable:
    return tuple(getattr(connection, name, None) for name in ("host", "port", "path"))


def _is_watched(connection: Any) -> bool:
    timeout_s = connection.socket_timeout
    return timeout_s is None or timeout_s > SHORT_TIMEOUT_S


def _shut_down(connection: Any) -> None:
    """Wake the thread that waits for an answer: it finds that its connection is lost."""
    sock = connection._sock  # noqa: SLF001 - redis-py has no public way
    if sock is not None:
        with suppress(OSError):  # lost or closed meanwhile
            # `SSLSocket.shutdown` would also drop the TLS state that the reading thread uses.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


of_process: Final = HungRedis()


def _prepare(**_: Any) -> None:
    of_process.prepare()


def _begin(how: str = "", **_: Any) -> None:
    of_process.begin(cold=how == "Cold")


def watch_ends() -> None:
    """Watch as soon as a worker of this process begins to end."""
    signals.worker_process_init.connect(_prepare, weak=False, dispatch_uid=__name__)
    signals.worker_shutting_down.connect(_begin, weak=False, dispatch_uid=__name__)
