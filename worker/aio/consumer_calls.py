"""Runs calls from other threads on the consumer's thread, in batches.

Code that changes the consumer's state (accepted, succeeded, failed, timed out) may only run on the
consumer's thread. Any thread may post a call. The first post since the last drain writes one byte
to a pipe that the hub watches. On the loop's thread, that byte is written after the loop has run
all callbacks that were ready. One round trip to the result store ends many jobs, and the consumer
should wake up once for all of them.

The hub's own `call_soon` would wake the hub as well. But callbacks that it schedules in turn,
mostly acknowledgements, wait for up to a second, until the next poll ends. A reader's callback runs
after the poll, so its acknowledgements are sent at once.
"""

import asyncio
import logging
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

logger = logging.getLogger(__name__)


class ConsumerCalls:
    """A queue of calls for the consumer's thread; without a hub, `post` runs each call directly."""

    def __init__(self) -> None:
        self._queue: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._armed = False
        self._attached = False
        self._closed = False
        self._thread = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    def attach(self, hub: Any) -> None:
        """Make a hub drain the queue.

        Celery calls this again after each lost connection, because the hub forgets its readers.
        """
        self._attached = True
        self._thread = threading.get_ident()
        hub.add_reader(self._reader, self.drain)

    @property
    def is_read_here(self) -> bool:
        """Whether this thread is the consumer's."""
        return self._thread == threading.get_ident()

    def gather_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake the consumer at most once in each turn of this loop."""
        self._loop = loop

    def post(self, function: Callable[..., Any], *args: Any) -> None:
        """Call `function` on the consumer's thread, in the order of the posts. From any thread."""
        if not self._attached:
            _call(function, args)
            return
        # Append first, then check. If `_armed` is true here, the drain that clears it comes later
        # and finds the entry. If two threads both see false, the pipe gets two bytes, and a drain
        # may find nothing.
        self._queue.append((function, args))
        if not self._armed:
            self._arm()

    def _arm(self) -> None:
        self._armed = True
        if self._loop is not None and asyncio._get_running_loop() is self._loop:  # noqa: SLF001 - it does not raise
            self._loop.call_soon(self._write)
        else:
            self._write()

    def wake(self) -> None:
        """Wake the consumer for calls that the loop posted before a job blocked it.

        Such a job is accepted, and the consumer should show and acknowledge it. From any thread.
        """
        if self._armed:
            self._write()

    def _write(self) -> None:
        if not self._closed:
            with suppress(OSError):  # the pipe is full, so the hub wakes anyway, or just closed
                os.write(self._writer, b"\0")

    def drain(self) -> None:
        """Run the posted calls, on the consumer's thread only.

        A signal handler may call this while it already runs.
        """
        if not self._closed:
            with suppress(OSError):
                os.read(self._reader, 4096)
        self._armed = False
        while True:
            try:
                function, args = self._queue.popleft()
            except IndexError:
                return
            try:
                _call(function, args)
            except BaseException:  # a call raised a shutdown; the other calls still wait
                self._arm()
                raise

    def wait(self, timeout_s: float) -> None:
        """Wait for a post for at most `timeout_s` seconds, then drain. Used when no hub runs."""
        if not self._closed:
            poller = select.poll()
            poller.register(self._reader, select.POLLIN)
            poller.poll(timeout_s * 1000)
        self.drain()

    def close(self, hub: Any | None) -> None:
        """Stop reading posts, and close the pipe."""
        if self._closed:
            return
        self._closed = True
        if hub is not None:
            with suppress(Exception):  # the hub may be closed already
                hub.remove(self._reader)
        os.close(self._reader)
        os.close(self._writer)


def _call(function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    try:
        function(*args)
    except Exception:
        logger.exception("a callback of the pool raised, and the worker goes on: %r", function)
