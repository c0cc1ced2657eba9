"""Runs suspects, jobs that may have killed two workers, one at a time.

When a worker is killed, the broker delivers all of its messages again, each with one death more.
This includes hundreds of jobs that only ran beside the job that killed the worker. So at most two
such deaths count. From then on the job is a suspect: its message waits here until no other suspect
runs in this process. Before the suspect runs, the worker notes this in the broker's record of the
message. If that worker dies as well, the death counts only for the suspect that ran, not for those
that waited.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import redis
from celery.worker import state

from worker.aio.transport.eta import waits
from worker.aio.transport.headers import DEATHS
from worker.foreign_json import member
from worker.jobs.history import ALONE

_logger = logging.getLogger(__name__)

SUSPECT: Final = 2
"""A job with this many deaths is a suspect; further deaths beside other jobs do not count."""
_TICK_S = 0.1

Run = Callable[[Any], None]


class Quarantine:
    """Holds the suspects of a consumer; used on the consumer's thread.

    Args:
        consumer: The consumer. Like jobs with a countdown, suspects that wait take up no room of
            its prefetch window.
    """

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._alone: Any = None
        self._held: deque[tuple[Any, Run, bool]] = deque()
        self._ticking = False

    @property
    def held(self) -> int:
        """How many suspects wait."""
        return len(self._held)

    def takes(self, message: Any, run: Run) -> bool:
        """Take a message if its job is a suspect.

        Args:
            message: The message.
            run: Called with the message as soon as no other suspect runs.

        Returns:
            Whether the message was taken.
        """
        headers = message.headers
        deaths = member(headers, DEATHS)
        if type(deaths) is not int or deaths < SUSPECT or waits(headers.get("eta"), time.time()):
            return False
        if self._is_free and not self._held:
            self._run(message, run)
            return True
        if not self._held:
            _logger.info("running suspects, jobs that may have killed workers, one at a time")
        qos = self._consumer.qos
        before = qos.value
        self._held.append((message, run, qos.increment_eventually() > before))
        self._tick()
        return True

    def forget(self) -> None:
        """Forget the suspects that have not begun.

        Their connection is lost, so the broker delivers them again.
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
            # kombu's own transport counts no deaths.
            if add_headers := getattr(message.channel, "add_headers", None):
                add_headers(message, {DEATHS: count, ALONE: count})
        except redis.ResponseError as exc:
            _logger.warning(
                "cannot note in the broker that a suspect runs (%s); if it kills the worker, no "
                "job is blamed",
                exc,
            )
        run(message)


def settle_deaths(headers: Any) -> int:
    """Return how many deaths count against a message's job, and write the number to its headers."""
    if not isinstance(headers, dict) or (DEATHS not in headers and ALONE not in headers):
        return 0
    alone = headers.pop(ALONE, None)
    deaths = headers.get(DEATHS)
    if type(deaths) is not int:
        return 0
    count = min(deaths, SUSPECT)
    if type(alone) is int and SUSPECT <= alone <= deaths:
        count = alone + (deaths > alone)
    headers[DEATHS] = count
    return count
