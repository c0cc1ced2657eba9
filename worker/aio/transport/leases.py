"""Renews the leases of the messages that this process works on, in a thread of its own.

A worker that dies stops renewing, and soon others take over its messages. A living worker must
never seem dead: not while its consumer waits for a lost connection, not while it shuts down, and
not while a job blocks its event loop. So a thread renews, on a connection that nothing else uses.

If the consumer's connection is lost, the thread also renews the messages whose jobs run on, and
keeps acknowledgements that could not be sent. It sends them when the server is back.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice
from typing import Any, Protocol
from weakref import WeakSet

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.aio.transport import unacked
from worker.aio.transport.scripts import FORGET, RENEW

logger = logging.getLogger(__name__)

_BATCH = 500
"""The most tags in one command."""
_TIMEOUT_S = 5.0
"""How long a renewal may hang before another connection is tried."""
_RETRY_S = 1.0
"""The pause between two tries to reach the server."""


class Holder(Protocol):
    """A holder of unacknowledged messages."""

    def held_tags(self) -> Iterable[str]:
        """Return the tags of the messages. This is called from another thread."""


class LeaseKeeper:
    """Renews leases every quarter of their length.

    Args:
        connect: Opens a client whose calls do not block for long.
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
        self._detached: set[str] = set()
        self._acked: deque[str] = deque()
        self._released: deque[str] = deque()
        self._unanswered: deque[str] = deque()
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._renew_at_s = 0.0
        self._is_unreachable = False
        self.workers = 1
        """How many workers there were at the latest look for messages of dead workers."""

    @property
    def patience_s(self) -> float:
        """If all workers were silent for longer than this, in seconds, the server was away."""
        return self.lease_s / 2

    def join(self, holder: Holder) -> None:
        """Renew a holder's messages from now on."""
        with self._lock:
            self._holders.add(holder)
            if self._thread is None:
                unacked.of_process.register(self)
                self._thread = threading.Thread(target=self._run, name="aio-leases", daemon=True)
                self._thread.start()

    @property
    def detached(self) -> int:
        """How many messages of closed channels this process still works on."""
        return len(self._detached)

    def leave(self, holder: Holder) -> None:
        """Stop renewing a holder's messages."""
        with self._lock:
            self._holders.discard(holder)
            self._wake.set()

    def detach(self, tags: Iterable[str]) -> None:
        """Renew messages of a closing channel until they are acknowledged or released."""
        self._detached.update(tags)
        self._wake.set()

    def acknowledge(self, tags: Iterable[str]) -> None:
        """Acknowledge messages of a closed channel."""
        tags = list(tags)
        self._acked.extend(tags)  # first, because the thread ends if both are empty
        self._detached.difference_update(tags)
        self._wake.set()

    def release(self, tags: Iterable[str]) -> None:
        """Let other workers take these messages at once."""
        tags = list(tags)
        self._released.extend(tags)  # first, as above
        self._detached.difference_update(tags)
        self._wake.set()

    def release_unanswered(self, suffix: str) -> None:
        """Release the messages of a request whose reply was lost.

        Args:
            suffix: The end of these messages' tags. Their whole tags are not known here.
        """
        self._unanswered.append(suffix)
        self._wake.set()

    def release_detached(self) -> None:
        """Release the messages of closed channels, because this process will not end their jobs."""
        self.release(tuple(self._detached))

    def flush_acks(self) -> None:
        """Send all waiting acknowledgements and releases now. A worker that ends calls this.

        Raises:
            redis.RedisError: The server cannot be reached.
        """
        if self._pending:
            self._send()

    @property
    def _pending(self) -> bool:
        return bool(self._acked or self._released or self._unanswered)

    def catch_up(self) -> None:
        """Send everything that waits and renew all leases, after the server was away."""
        try:
            self._send()
            self._renew()
        except (redis.RedisError, OSError) as exc:
            logger.debug("cannot renew yet; the thread tries again: %r", exc)

    # -- the thread

    def _run(self) -> None:
        while True:
            with self._lock:
                if not (len(self._holders) or self._detached or self._pending):
                    self._thread = None
                    self._forget_client()
                    return
            self._wake.clear()
            try:
                self._do_due_work()
            except (redis.RedisError, OSError) as exc:
                if not self._is_unreachable:
                    self._is_unreachable = True
                    logger.warning(
                        "cannot renew the leases of this worker's messages (%s); trying until it "
                        "works",
                        exc,
                    )
                self._forget_client()
                # Not `_wake.wait`: further acknowledgements could not be sent either.
                time.sleep(min(_RETRY_S, self.lease_s / 8))
                self._renew_at_s = 0.0
                continue
            except Exception:
                logger.exception(
                    "cannot renew the leases of this worker's messages; trying again in %g s",
                    _RETRY_S,
                )
                time.sleep(_RETRY_S)
                continue
            if self._is_unreachable:
                self._is_unreachable = False
                logger.info("the leases of this worker's messages are renewed again")
            self._wake.wait(max(self._renew_at_s - time.monotonic(), 0.01))

    def _do_due_work(self) -> None:
        if self._pending:
            self._send()
        if time.monotonic() >= self._renew_at_s:
            self._renew()

    def _renew(self) -> None:
        tags = list(self._detached.copy())
        for holder in tuple(self._holders):
            tags += holder.held_tags()
        for first in range(0, len(tags), _BATCH):
            self._execute(
                "EVAL", RENEW, 3, self._pulse, self._leases, self._index,
                self.patience_s, self.lease_s, repr(time.time()), *tags[first : first + _BATCH],
            )  # fmt: skip
        if not tags:
            # An idle worker needs no connection for leases: each of its looks for messages of dead
            # workers notes in the pulse that it is alive.
            self._forget_client()
        self._renew_at_s = time.monotonic() + self.lease_s / 4

    def _send(self) -> None:
        with self._lock:
            while tags := list(islice(self._acked, _BATCH)):
                self._execute("EVAL", FORGET, 3, self._unacked, self._index, self._leases, *tags)
                _drop(self._acked, len(tags))
            while self._unanswered:
                leases = self._connected().zscan_iter(
                    self._leases, match=f"*{self._unanswered[0]}", count=_BATCH
                )
                self._released.extend(_text(tag) for tag, _ in leases)
                self._unanswered.popleft()
            while tags := list(islice(self._released, _BATCH)):
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
                    client.connection_pool.disconnect()


def _text(tag: bytes | str) -> str:
    return tag if isinstance(tag, str) else tag.decode()


def _drop(queue: "deque[str]", count: int) -> None:
    for _ in range(count):
        queue.popleft()


def connecting(params: dict[str, Any], lease_s: float) -> "Callable[[], redis.Redis]":
    """Return a function that opens a client whose calls never block for long.

    Args:
        params: The parameters of the channel's connections.
        lease_s: How long a lease lasts, in seconds.
    """
    timeout_s = min(_TIMEOUT_S, lease_s / 2)
    params = params | {
        "max_connections": 1,
        "socket_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
    }
    if "socket_connect_timeout" in params:
        params["socket_connect_timeout"] = timeout_s
    return lambda: redis.Redis(connection_pool=redis.ConnectionPool(**params))
