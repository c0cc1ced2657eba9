"""Keeps the leases of the messages that this process works on, in a thread of its own.

A worker that dies stops renewing, and soon others take over what it had. One that lives must never
seem dead: neither while its consumer waits for a lost connection, nor while it shuts down, nor
while a job holds up its event loop. Hence the thread, with a connection that nothing else uses.

It also keeps what would otherwise go down with a connection: acknowledgements that could not be
sent, and messages whose jobs run on. Those are sent when the server is back.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from itertools import islice
from typing import Any, Protocol
from weakref import WeakSet

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.aio.transport import acknowledging
from worker.aio.transport.scripts import FORGET, RENEW

logger = logging.getLogger(__name__)

_MOST = 500
"""Tags in one command at most."""
_TIMEOUT_S = 5.0
"""How long a renewal may hang before another connection is tried, in seconds."""
_RETRY_S = 1.0
"""Between two tries to reach the server, in seconds."""


class Holder(Protocol):
    """Has messages that are not acknowledged."""

    def held_tags(self) -> Iterable[str]:
        """Name them. Called from another thread."""


class LeaseKeeper:
    """Renews leases every quarter of their length.

    Args:
        connect: Makes a client; its calls must not block for long.
        lease_s: How long a lease lasts, in seconds.
        keys: The names of the hash, the index, the leases and the pulse, with their prefix.
    """

    def __init__(
        self,
        connect: "Callable[[], redis.Redis]",
        *,
        lease_s: float,
        keys: tuple[str, str, str, str],
    ) -> None:
        self.lease_s = lease_s
        self._unacked, self._index, self._leases, self._pulse = keys
        self._connect = connect
        self._client: redis.Redis | None = None
        self._holders: WeakSet[Holder] = WeakSet()
        self._carried: set[str] = set()
        self._acked: deque[str] = deque()
        self._released: deque[str] = deque()
        self._unanswered: deque[str] = deque()
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._renew_at_s = 0.0
        self._away = False

    @property
    def patience_s(self) -> float:
        """After how long a silence of all workers the server must have been away, in seconds."""
        return self.lease_s / 2

    def join(self, holder: Holder) -> None:
        """Renew what a holder has, from now on."""
        with self._lock:
            self._holders.add(holder)
            if self._thread is None:
                acknowledging.register(self)
                self._thread = threading.Thread(target=self._run, name="aio-leases", daemon=True)
                self._thread.start()

    @property
    def carried(self) -> int:
        """How many messages of channels that are gone this process still works on."""
        return len(self._carried)

    def leave(self, holder: Holder) -> None:
        """Renew a holder's messages no longer."""
        with self._lock:
            self._holders.discard(holder)
            self._wake.set()

    def carry(self, tags: Iterable[str]) -> None:
        """Renew these, whose channel is gone, until they are acknowledged or released."""
        self._carried.update(tags)
        self._wake.set()

    def acknowledge(self, tags: Iterable[str]) -> None:
        """Acknowledge in the name of a channel that is gone."""
        tags = list(tags)
        self._carried.difference_update(tags)
        self._acked.extend(tags)
        self._wake.set()

    def release(self, tags: Iterable[str]) -> None:
        """Let others have these at once."""
        tags = list(tags)
        self._carried.difference_update(tags)
        self._released.extend(tags)
        self._wake.set()

    def release_question(self, suffix: str) -> None:
        """Let others have what was taken by a question whose answer was lost.

        Nobody here knows what it is.
        """
        self._unanswered.append(suffix)
        self._wake.set()

    def release_carried(self) -> None:
        """Let others have all whose channel is gone: this process will not end their jobs."""
        self.release(tuple(self._carried))

    def flush_acks(self) -> None:
        """Send now what waits. By a worker that ends.

        Raises:
            redis.RedisError: The server cannot be reached.
        """
        if self._pending:
            self._send()

    @property
    def _pending(self) -> bool:
        return bool(self._acked or self._released or self._unanswered)

    def catch_up(self) -> None:
        """Send and renew at once what could not be while the server was away.

        First thing on a new connection.
        """
        try:
            self._send()
            self._renew()
        except (redis.RedisError, OSError) as exc:
            logger.debug("the thread will try again: %r", exc)
            self._forget_client()

    # -- the thread

    def _run(self) -> None:
        while True:
            with self._lock:
                if not (len(self._holders) or self._carried or self._pending):
                    self._thread = None
                    self._forget_client()
                    return
            self._wake.clear()
            try:
                if self._pending:
                    self._send()
                if time.monotonic() >= self._renew_at_s:
                    self._renew()
            except (redis.RedisError, OSError) as exc:
                if not self._away:
                    self._away = True
                    logger.warning(
                        "cannot renew the leases of this worker's messages (%s); trying until it "
                        "works",
                        exc,
                    )
                self._forget_client()
                # Not `_wake`: what comes meanwhile cannot be sent either.
                time.sleep(min(_RETRY_S, self.lease_s / 8))
                self._renew_at_s = 0.0
                continue
            except Exception:
                logger.exception("renewing the leases failed")
                time.sleep(_RETRY_S)
                continue
            if self._away:
                self._away = False
                logger.info("leases are renewed again")
            self._wake.wait(max(self._renew_at_s - time.monotonic(), 0.01))

    def _renew(self) -> None:
        tags = list(self._carried.copy())
        for holder in tuple(self._holders):
            tags += holder.held_tags()
        for first in range(0, len(tags) or 1, _MOST):
            self._execute(
                "EVAL", RENEW, 3, self._pulse, self._leases, self._index,
                self.patience_s, self.lease_s, repr(time.time()), *tags[first : first + _MOST],
            )  # fmt: skip
        self._renew_at_s = time.monotonic() + self.lease_s / 4

    def _send(self) -> None:
        with self._lock:
            while tags := list(islice(self._acked, _MOST)):
                self._execute("EVAL", FORGET, 3, self._unacked, self._index, self._leases, *tags)
                _drop(self._acked, len(tags))
            while self._unanswered:
                found = self._connected().zscan_iter(
                    self._leases, match=f"*{self._unanswered[0]}", count=_MOST
                )
                self._released.extend(_text(tag) for tag, _ in found)
                self._unanswered.popleft()
            while tags := list(islice(self._released, _MOST)):
                self._execute(
                    "ZADD", self._leases, "XX", *(part for tag in tags for part in (0, tag))
                )
                _drop(self._released, len(tags))

    def _execute(self, *command: Any) -> None:
        with self._lock:
            self._connected().execute_command(*command)  # type: ignore[no-untyped-call, unused-ignore]

    def _connected(self) -> "redis.Redis":
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _forget_client(self) -> None:
        with self._lock:
            client, self._client = self._client, None
            if client is not None:
                with suppress(Exception):
                    client.close()
                    client.connection_pool.disconnect()


def _text(tag: bytes | str) -> str:
    return tag if isinstance(tag, str) else tag.decode()


def _drop(queue: "deque[str]", count: int) -> None:
    for _ in range(count):
        queue.popleft()


def connecting(params: dict[str, Any], lease_s: float) -> "Callable[[], redis.Redis]":
    """Give what makes a client that never hangs for long, out of a connection's parameters."""
    timeout_s = min(_TIMEOUT_S, lease_s / 2)
    params = params | {
        "max_connections": 1,
        "socket_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
    }
    if "socket_connect_timeout" in params:
        params["socket_connect_timeout"] = timeout_s
    return lambda: redis.Redis(connection_pool=redis.ConnectionPool(**params))


_keepers: dict[Hashable, LeaseKeeper] = {}


def keeper_of(key: Hashable, make: Callable[[], LeaseKeeper]) -> LeaseKeeper:
    """Give the process's one keeper for a book."""
    if key not in _keepers:
        _keepers[key] = make()
    return _keepers[key]


def release_all_carried() -> None:
    """Have every keeper let go of what its process will not end."""
    for keeper in _keepers.values():
        keeper.release_carried()
