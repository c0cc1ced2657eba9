"""Counts jobs in a worker's process, and reports aside, so that counting costs the jobs nothing."""

import os
import threading
import time

import redis

COUNTS = "bench:counts"
"""A hash.

For each process its jobs done, its jobs begun, the first one's beginning and the last one's end.
"""
LAGS = "bench:lags"
"""A list: seconds from a job's sending to its beginning."""
_EVERY_S = 0.02


class Counter:
    """One a process; its thread starts with the first job."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._begun = self._done = 0
        self._pid = 0
        self._last_s = 0.0
        self._lags: list[float] = []

    def begin(self) -> None:
        """A job begins."""
        if self._pid != os.getpid():  # also after a fork
            self._pid, self._begun, self._done = os.getpid(), 0, 0
            threading.Thread(target=self._report, args=(time.time(),), daemon=True).start()
        self._begun += 1

    def end(self) -> None:
        """A job ends."""
        self._done += 1
        self._last_s = time.time()

    def lag(self, sent_s: float) -> None:
        """A job that was sent at an instant has begun."""
        self._lags.append(time.time() - sent_s)

    def _report(self, first_s: float) -> None:
        client = redis.Redis.from_url(self._url)
        reported = (0, 0)
        while True:
            if reported != (self._begun, self._done):
                reported = self._begun, self._done
                client.hset(
                    COUNTS, str(self._pid), f"{self._done} {self._begun} {first_s} {self._last_s}"
                )
            if self._lags:
                lags, self._lags = self._lags, []
                client.rpush(LAGS, *map(str, lags))
            time.sleep(_EVERY_S)
