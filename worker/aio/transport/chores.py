"""Runs chores that the consumer need not wait for, in a thread of their own.

The hub's timers start these chores. Each sends commands to the server. On the consumer's thread,
all jobs would wait for the answers: one second in ten if the server is far away.
"""

import logging
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import redis

from worker.aio.threads import DaemonThreads

logger = logging.getLogger(__name__)


class Chores:
    """A thread for the chores of one connection. It starts with the first chore."""

    def __init__(self) -> None:
        self._thread = DaemonThreads(1, name="aio-chores")
        self._latest: dict[Hashable, Future[Any]] = {}

    def begin(self, name: str, of: object, chore: Callable[[], Any]) -> None:
        """Run a chore, unless the same chore of the same object waits or runs already.

        Args:
            name: The name of the chore, in words for the log.
            of: The object that the chore belongs to.
            chore: The function to call.
        """
        key = (name, id(of))
        latest = self._latest.get(key)
        if latest is not None and not latest.done():
            return
        with suppress(RuntimeError):  # shut down: the connection is closed
            self._latest[key] = self._thread.submit(_done, name, chore)

    def end(self) -> None:
        """Begin no further chore."""
        self._thread.shutdown(cancel_futures=True)


def _done(name: str, chore: Callable[[], Any]) -> None:
    try:
        chore()
    except (redis.RedisError, OSError, AttributeError) as exc:
        # The server is away or refuses, or the channel was closed meanwhile. The hub's timer starts
        # the chore again soon.
        logger.debug("cannot %s now: %r", name, exc)
    except Exception:
        logger.exception("cannot %s now; it is tried again", name)
