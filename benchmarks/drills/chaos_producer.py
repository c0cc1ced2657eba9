"""The application that publishes the jobs of `python -m benchmarks.drills chaos`."""

import random
import time
import uuid
from collections import deque

from celery import Celery

from benchmarks.drills.judge import Job

_RECIPIENT = "ann@example.com"
_TURN_S = 0.3
_RETRY = {"max_retries": 1}


class Producer:
    """A web application that publishes jobs, again if the broker did not confirm the first time.

    Args:
        url: The URL of the broker.
        rate: Jobs a second.
        twice: The share of messages that are published a second time, at once or some seconds
            later.
        rng: The random numbers.
    """

    def __init__(
        self, url: str, jobs: list[Job], *, rate: float, twice: float, rng: random.Random
    ) -> None:
        self.app = Celery("producer", broker=url, set_as_current=False)
        self.app.conf.broker_transport_options = {"socket_timeout": 5, "socket_connect_timeout": 2}
        self.waiting = deque(jobs)
        self.again: list[tuple[float, Job]] = []
        self.repeated = 0
        self.refused = 0
        self._twice = twice
        self._rng = rng
        self._due = rate
        self._began_s = time.monotonic()
        self._sent = 0

    @property
    def done(self) -> bool:
        """Whether every job is published."""
        return not self.waiting and not self.again

    def work(self) -> None:
        """Publish the jobs that are due."""
        now_s = time.monotonic()
        # A slow broker must not delay the next failure.
        while (
            self.waiting
            and self._sent < (now_s - self._began_s) * self._due
            and time.monotonic() < now_s + _TURN_S
        ):
            job = self.waiting[0]
            if not self._publish(job):
                return
            self.waiting.popleft()
            self._sent += 1
            if self._rng.random() < self._twice:
                later_s = 0.0 if self._rng.random() < 0.5 else self._rng.uniform(0.1, 10)  # noqa: PLR2004
                self.again.append((now_s + later_s, job))
        for entry in [entry for entry in self.again if entry[0] <= now_s]:
            if not self._publish(entry[1]):
                return
            self.again.remove(entry)
            self.repeated += 1

    def _publish(self, job: Job) -> bool:
        job.sent_s = job.sent_s or time.time()
        text = (
            {"to": _RECIPIENT, "subject": job.id, "text": "Hello"}
            if job.email
            else {"prompt": job.id}
        )
        name, queue = ("tasks.email.send", "email") if job.email else ("tasks.ai.complete", "ai")
        try:
            self.app.send_task(name, kwargs=text, queue=queue, task_id=job.id, retry_policy=_RETRY)
        except Exception:  # noqa: BLE001 - the broker fails in one of many ways; the message may have arrived
            self.refused += 1
            return False
        job.copies += 1
        return True


def make_jobs(emails: int, completions: int, rng: random.Random) -> list[Job]:
    """Return the jobs, emails and completions mixed."""
    ids = [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(emails + completions)]
    jobs = [Job(job_id, email=number < emails) for number, job_id in enumerate(ids)]
    rng.shuffle(jobs)
    return jobs
