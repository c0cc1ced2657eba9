"""Counts finished jobs in a worker's process, and reports the count aside, so that counting costs the jobs nothing."""

import os
import threading
import time

import redis

KEY = "bench"
_EVERY_S = 0.02


class Counter:
    """One a process; its thread starts with the first job."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._done = 0
        self._pid = 0

    def begin(self) -> None:
        """A job begins."""
        if self._pid != os.getpid():  # also after a fork
            self._pid, self._done = os.getpid(), 0
            threading.Thread(target=self._report, args=(time.time(),), daemon=True).start()

    def end(self) -> None:
        """A job ends."""
        self._done += 1
        self._last_s = time.time()

    def _report(self, first_s: float) -> None:
        client = redis.Redis.from_url(self._url)
        told = 0
        while True:
            if told != self._done:
                told = self._done
                client.hset(KEY, str(self._pid), f"{told} {first_s} {self._last_s}")
            time.sleep(_EVERY_S)
