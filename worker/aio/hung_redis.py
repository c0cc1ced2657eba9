"""Lets a worker end although its Redis hangs: the sockets stay open, and nothing answers.

A question to Redis waits for up to half a minute, and a worker that ends asks several, one after
the other. So once its end has begun, a server that has left a question open for a few seconds is
silent: the connections to it are shut down, and further ones fail at once, as if nothing listened
there. What Redis did not learn, time corrects: leases end, and other workers take the messages.

A connection that gives up by itself soon, as that of the leases, is left alone. It finds out that
the server is back, which ends its silence.
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

PATIENT_S: Final = 5.0
"""Connections that give up within this time are left alone."""
_SILENT_S: Final = 4.0
"""How long a question may stay open once the end has begun, in seconds."""
_COLD_SILENT_S: Final = 1.0
"""The same in a cold shutdown."""
_STEP_S: Final = 0.25


class HungRedis:
    """Knows the blocking connections of a process, and which servers are silent while it ends.

    Args:
        silent_s: After how many seconds without an answer a server is silent.
    """

    def __init__(self, *, silent_s: float = _SILENT_S) -> None:
        self._silent_s = silent_s
        self._connections: WeakSet[Any] = WeakSet()
        self._lock = threading.Lock()
        # Unlike an event, a signal handler that interrupts another one may set this.
        self._began = SimpleQueue[None]()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self.silent: frozenset[Hashable] = frozenset()
        """The addresses of the servers that do not answer; empty before the end."""

    def enter(self, connection: Any) -> None:
        """Take in a connection that is about to be opened.

        Raises:
            redis.ConnectionError: Its server does not answer, and this worker ends.
        """
        with self._lock:
            self._connections.add(connection)
        if _is_patient(connection) and _address_of(connection) in self.silent:
            raise redis.ConnectionError("it does not answer, and this worker ends")

    def note_answer(self, connection: Any) -> None:
        """Note that a server has answered."""
        self.silent -= {_address_of(connection)}

    def prepare(self) -> None:
        """Start the thread that watches; a signal handler had better not start one."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="aio-hung-redis", daemon=True)
            self._thread.start()

    def begin(self, *, cold: bool = False) -> None:
        """Watch from now on: the worker ends. A second call can only make it a cold end."""
        if cold:
            self._silent_s = min(self._silent_s, _COLD_SILENT_S)
        self.prepare()
        self._began.put(None)

    def end(self) -> None:
        """Stop watching."""
        self._over.set()
        self._began.put(None)

    def _run(self) -> None:
        self._began.get()
        while not self._over.wait(_STEP_S):
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
                "Redis has not answered for %g s, and this worker ends without it: what it has not "
                "acknowledged comes back when the leases end",
                self._silent_s,
            )
        for connection in connections:
            if _is_patient(connection) and _address_of(connection) in self.silent:
                _shut_down(connection)


def _address_of(connection: Any) -> Hashable:
    return tuple(getattr(connection, name, None) for name in ("host", "port", "path"))


def _is_patient(connection: Any) -> bool:
    timeout_s = connection.socket_timeout
    return timeout_s is None or timeout_s > PATIENT_S


def _shut_down(connection: Any) -> None:
    """Wake the thread that waits for an answer: it finds the connection lost."""
    sock = connection._sock  # noqa: SLF001 - redis-py has no public way
    if sock is not None:
        with suppress(OSError):  # lost or closed meanwhile
            # The method of a socket with TLS would also take its TLS from the thread that reads.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)


of_process: Final = HungRedis()


def _prepare(**_: Any) -> None:
    of_process.prepare()


def _begin(how: str = "", **_: Any) -> None:
    of_process.begin(cold=how == "Cold")


def watch_ends() -> None:
    """Watch from the moment in which a worker of this process begins to end."""
    signals.worker_process_init.connect(_prepare, weak=False, dispatch_uid=__name__)
    signals.worker_shutting_down.connect(_begin, weak=False, dispatch_uid=__name__)
