"""Suspects.

Jobs of which two workers may have died run one at a time, so that the next death tells which one it
was.

A worker that is killed takes all that it held with it: each message comes again with one death
more, the job that killed it beside hundreds that were only near. Two of those deaths count at most.
From then on a message waits here until no other suspect runs in this process, and before it runs
the broker's book says so. If that worker dies as well, the one that ran has another death to its
name, and those that waited do not.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import redis
from celery.worker import state

from worker.aio.transport.qos import waits
from worker.jobs.history import ALONE, DEATHS

_logger = logging.getLogger(__name__)

SUSPECT: Final = 2
"""So many deaths make a suspect; more in company count no more."""
_TICK_S = 0.1

Run = Callable[[Any], None]


class Quarantine:
    """Holds the suspects of a consumer. On the consumer's thread.

    Args:
        consumer: The consumer; what is held takes up no room of its prefetch window, as jobs with a
            countdown do not.
    """

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._alone: Any = None
        self._held: deque[tuple[Any, Run, bool]] = deque()
        self._ticking = False

    @property
    def held(self) -> int:
        """How many wait."""
        return len(self._held)

    def takes(self, message: Any, run: Run) -> bool:
        """Whether a message is a suspect.

        Then `run` is called with it as soon as no other one runs.
        """
        headers = message.headers
        told = headers.get(DEATHS) if isinstance(headers, dict) else None
        if type(told) is not int or told < SUSPECT or waits(headers.get("eta"), time.time()):
            return False
        if self._is_free and not self._held:
            self._run(message, run)
            return True
        if not self._held:
            _logger.info("jobs that workers died with run one at a time here")
        qos = self._consumer.qos
        before = qos.value
        self._held.append((message, run, qos.increment_eventually() > before))
        self._tick()
        return True

    def forget(self) -> None:
        """Forget what waits, and what has not begun.

        The connection is gone, and the broker gives it out again.
        """
        self._held.clear()
        self._ticking = False
        if not any(request.message is self._alone for request in tuple(state.active_requests)):
            self._alone = None

    @property
    def _is_free(self) -> bool:
        return self._alone is None or self._alone.acknowledged

    def _tick(self) -> None:
        if self._held and not self._ticking:
            self._ticking = True
            self._consumer.timer.call_after(_TICK_S, self._next)

    def _next(self) -> None:
        self._ticking = False
        try:
            while self._held and self._is_free:
                message, run, took_room = self._held.popleft()
                if took_room:
                    self._consumer.qos.decrement_eventually()
                self._run(message, run)
        finally:
            self._tick()

    def _run(self, message: Any, run: Run) -> None:
        self._alone = message
        count = message.headers[DEATHS]
        try:
            if rebook := getattr(
                message.channel, "rebook", None
            ):  # kombu's own transport counts no deaths
                rebook(message, {DEATHS: count, ALONE: count})
        except redis.ResponseError as exc:
            _logger.warning("a suspect runs without a note of it (%s)", exc)
        run(message)


def settle(headers: Any) -> int:
    """Count the deaths that a message is to blame for, write that into its headers, and give it."""
    if not isinstance(headers, dict) or (DEATHS not in headers and ALONE not in headers):
        return 0
    alone = headers.pop(ALONE, None)
    told = headers.get(DEATHS)
    if type(told) is not int:
        return 0
    count = min(told, SUSPECT)
    if type(alone) is int and SUSPECT <= alone <= told:
        count = alone + (told > alone)
    headers[DEATHS] = count
    return count
