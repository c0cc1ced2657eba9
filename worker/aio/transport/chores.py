"""Does what the consumer need not wait for in a thread of its own.

The hub's timers start these chores. Each asks the server one or more questions, and on the
consumer's thread all jobs would wait for the answers: a second in ten where the server is far away.
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
    """A thread for the chores of one connection; it starts with the first of them."""

    def __init__(self) -> None:
        self._thread = DaemonThreads(1, name="aio-chores")
        self._latest: dict[Hashable, Future[Any]] = {}

    def begin(self, name: str, of: object, chore: Callable[[], Any]) -> None:
        """Have a chore done, unless the same one of the same object waits or is being done.

        Args:
            name: What it does, for the log.
            of: Whose chore it is.
            chore: Does it.
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
        # The server is away, or refuses; or the channel was closed meanwhile. It comes again soon.
        logger.debug("cannot %s now: %r", name, exc)
    except Exception:
        logger.exception("cannot %s now; it is tried again", name)
