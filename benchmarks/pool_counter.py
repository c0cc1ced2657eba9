"""Counts jobs in a worker's process and reports from a thread, so that no job waits for it."""

import os
import threading
import time

import redis

COUNTS = "bench:counts"
"""The name of a hash.

It has, for each process: jobs done, jobs begun, the beginning of the first and the end of the last.
"""
LAGS = "bench:lags"
"""The name of a list: the seconds from sending a job to its beginning."""
_EVERY_S = 0.02


class Counter:
    """A counter for one process; its thread starts with the first job."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._begun = self._done = 0
        self._pid = 0
        self._last_s = 0.0
        self._lags: list[float] = []

    def begin(self) -> None:
        """Count a job that begins."""
        if self._pid != os.getpid():  # also after a fork
            self._pid, self._begun, self._done = os.getpid(), 0, 0
            threading.Thread(target=self._report, args=(time.time(),), daemon=True).start()
        self._begun += 1

    def end(self) -> None:
        """Count a job that ends."""
        self._done += 1
        self._last_s = time.time()

    def lag(self, sent_s: float) -> None:
        """Note the delay of a job that was sent at an instant and begins now."""
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
