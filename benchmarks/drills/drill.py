"""One drill: its failure, its size, and the line of figures at its end."""

import random
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import redis
from celery import Celery
from kombu.exceptions import OperationalError

from benchmarks.drills.judge import Job, judge, left_in_broker, read_ends
from benchmarks.drills.stack import Stack
from worker.aio.sending import Sender

_LOOK_S = 0.1
_UNDER_WAY = 5
"""How many calls are accepted before a drill begins to break things."""
_SILENT_S = 1.0
"""A longer pause between calls counts as silence. It covers a call, its answer and our sample."""
_MOST_WORKER_MB = 400.0


@dataclass(frozen=True)
class Scale:
    """How large a drill is.

    Attributes:
        completions: How many completions it sends.
        emails: How many emails it sends.
        trouble_s: How long the trouble lasts, in seconds.
        limit_s: How long after the trouble jobs may take to end, in seconds; later they are stuck.
    """

    completions: int
    emails: int
    trouble_s: float
    limit_s: float


@dataclass(frozen=True)
class Drill:
    """The definition of a drill.

    Attributes:
        name: Its name on the command line.
        act: Sends the jobs and makes the trouble; it returns once the trouble is over. Its
            docstring says what happens.
        full: Its usual size.
        short: Its size in CI; None if it takes too long for CI.
        silence_s: The longest silence of the providers that is allowed after the trouble, while
            jobs wait, in seconds.
        ends: The ends of jobs that are allowed beside SUCCESS.
        settings: Settings of its workers. A drill with settings has workers of its own.
        accounts: The providers' accounts; None means wide limits.
        missing: Returns what the machine lacks for this drill, if anything.
    """

    name: str
    act: Callable[["Site"], None]
    full: Scale
    short: Scale | None = None
    silence_s: float = 15.0
    ends: frozenset[str] = frozenset()
    settings: dict[str, str] = field(default_factory=dict)
    accounts: dict[str, Any] | None = None
    missing: Callable[[], str] = str

    @property
    def summary(self) -> str:
        """The description of the drill, in a sentence."""
        return (self.act.__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " ")


@dataclass
class Outcome:
    """How a drill ended.

    Attributes:
        line: The figures: lost, twice, stuck, idle, memory.
        broken: One sentence for each promise that was broken.
    """

    line: str
    broken: list[str]


class Site:
    """One run of a drill: the stack, the jobs, and the measurements.

    Args:
        stack: Redis, sandbox and workers, which several drills may use one after the other.
        drill: The drill.
        scale: Its size.
        options: Further options of the command line.
        seed: Makes the jobs' ids repeatable within the stack.
    """

    def __init__(
        self,
        stack: Stack,
        drill: Drill,
        scale: Scale,
        *,
        options: dict[str, str] | None = None,
        seed: int | None = None,
    ) -> None:
        self.stack, self.drill, self.scale = stack, drill, scale
        self.options = options or {}
        self.jobs: list[Job] = []
        self.broken: list[str] = []
        self.notes: dict[str, Any] = {}
        self._rng = random.Random(seed)  # noqa: S311 - chance, no secret
        app = Celery("producer", broker=stack.redis.url, set_as_current=False)
        app.conf.broker_transport_options = {"socket_timeout": 5, "socket_connect_timeout": 2}
        app.conf.broker_transport = "worker.aio.transport:Transport"
        self.app = app
        self._sender = Sender(app)
        self._to_send = self._make_jobs()
        self._client = redis.Redis.from_url(stack.redis.url, socket_timeout=5)
        self._began_s = time.monotonic()
        self._calls: list[tuple[float, int]] = []
        self._calls_before = self._count_calls("calls")
        self._accepted_before = self._count_calls("accepted")
        self._recovered_s = self._began_s
        self._open: list[Job] = []
        self._look_again_s = self._last_end_s = self._began_s
        self._worker_mb: list[float] = []
        self._redis_mb = 0.0

    def _make_jobs(self) -> list[Job]:
        scale = self.scale
        jobs = [
            Job(str(uuid.UUID(int=self._rng.getrandbits(128), version=4)), email=n < scale.emails)
            for n in range(scale.emails + scale.completions)
        ]
        self._rng.shuffle(jobs)
        return jobs

    # --- the actions of a drill

    def send(self, share: float = 1.0) -> None:
        """Send a share of the jobs that are still to be sent, as a web application does.

        Raises:
            kombu.exceptions.OperationalError, redis.RedisError: The broker accepts no job now.
        """
        count = round(len(self._to_send) * share)
        part = self._to_send[:count]
        for job in part:
            job.sent_s = time.time()
        self._sender.send_many([self._signature(job) for job in part])
        for job in part:
            job.copies += 1
        self.jobs += part
        del self._to_send[:count]

    def _signature(self, job: Job) -> Any:
        if job.email:
            mail = {"to": "ann@example.com", "subject": job.id, "text": "Hello"}
            return self.app.signature(
                "tasks.email.send", kwargs=mail, options={"queue": "email", "task_id": job.id}
            )
        question = {"prompt": job.id, "max_completion_tokens": 40}
        return self.app.signature(
            "tasks.ai.complete", kwargs=question, options={"queue": "ai", "task_id": job.id}
        )

    def await_calls(self) -> None:
        """Wait until some calls of this drill were accepted."""
        self.until(lambda: self.accepted >= _UNDER_WAY, within_s=30, what="calls under way")

    def until(self, check: Callable[[], Any], *, within_s: float, what: str) -> None:
        """Watch until a check succeeds; note a broken promise if that takes too long."""
        deadline_s = time.monotonic() + within_s
        while not check():
            if time.monotonic() > deadline_s:
                self.broken.append(f"{what}: not within {within_s:.0f} s")
                return
            self.watch()
            time.sleep(_LOOK_S)

    def pass_time(self, seconds: float) -> None:
        """Let the trouble last for some seconds, and keep measuring."""
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            self.watch()
            time.sleep(min(_LOOK_S, left_s))

    def recovered(self) -> None:
        """Note that the trouble is over: from now on no key may stay idle while jobs wait."""
        self._recovered_s = time.monotonic()

    def refused(self, word: str) -> None:
        """Send a job that Redis must refuse: the producer must see Redis' reason in the error."""
        try:
            self.app.send_task("tasks.ai.complete", kwargs={"prompt": "too much"}, queue="ai",
                retry=False)  # fmt: skip
        except (OperationalError, redis.RedisError) as exc:
            if word not in str(exc):
                self.broken.append(f"a producer got {exc!s:.200}, without the word {word}")
        else:
            self.broken.append(f"a job was accepted that Redis should refuse with {word}")

    def chance(self) -> int:
        """128 random bits, for an id."""
        return self._rng.getrandbits(128)

    def results(self) -> Celery:
        """An application that reads results."""
        url = self.stack.redis.url
        return Celery("reader", broker=url, backend=url, set_as_current=False)

    @property
    def unsent(self) -> list[Job]:
        """The jobs that have not been sent yet."""
        return self._to_send

    def control(self, verb: str, **body: Any) -> dict[str, Any]:
        """Make a control call to the sandbox."""
        return self.stack.sandbox.control(verb, **body)

    # --- the measurements

    @property
    def accepted(self) -> int:
        """How many calls of this drill were accepted."""
        return self._count_calls("accepted") - self._accepted_before

    @property
    def calls(self) -> int:
        """How many calls were made in this drill."""
        return self._count_calls("calls") - self._calls_before

    def _count_calls(self, kind: str) -> int:
        services = self.stack.sandbox.ledger()["services"]
        return sum(int(book[kind]) for book in services.values())

    def watch(self) -> None:
        """Take a sample of the calls, and of the memory of workers and Redis."""
        self._calls.append((time.monotonic(), self.calls))
        self._worker_mb.append(max((slot.memory_mb for slot in self.stack.slots), default=0.0))
        with suppress(redis.RedisError):
            info: dict[str, Any] = self._client.info("memory")  # type: ignore[assignment]
            self._redis_mb = max(self._redis_mb, info["used_memory"] / 2**20)
            if time.monotonic() >= self._look_again_s:
                self._look()

    def _look(self) -> None:
        read_ends(self._client, self._open)
        if any(job.end for job in self._open):
            self._last_end_s = time.monotonic()
        # Jobs that were sent in the meantime are included.
        self._open = [job for job in self.jobs if job.end is None]
        # `_look` reads all open jobs, so it must be rare enough not to keep Redis busy.
        self._look_again_s = time.monotonic() + max(_LOOK_S, len(self._open) / 10_000)

    @property
    def worker_mb(self) -> list[float]:
        """The memory of the largest worker, sample by sample, in MB."""
        return self._worker_mb

    def calls_until(self, at_s: float) -> int:
        """How many calls were made until an instant, by the latest sample before it."""
        return max((calls for seen_s, calls in self._calls if seen_s <= at_s), default=0)

    def silences(self, until_s: float) -> list[float]:
        """The pauses between calls after the trouble, each longer than a second, in seconds.

        They are lower bounds: between two samples there may have been calls.
        """
        first_s = same_s = self._recovered_s
        last = self.calls_until(first_s)
        pauses = []
        for at_s, calls in self._calls:
            if not first_s <= at_s <= until_s:
                continue
            if calls != last:
                pauses.append(same_s - first_s)
                first_s, last = at_s, calls
            same_s = at_s
        pauses.append(until_s - first_s)
        return [pause for pause in pauses if pause > _SILENT_S]

    # --- the end

    def finish(self) -> Outcome:
        """Wait until every job has ended, and judge the drill."""
        deadline_s = time.monotonic() + self.scale.limit_s
        while time.monotonic() < deadline_s:
            self.watch()
            with suppress(redis.RedisError):
                if all(job.end for job in self.jobs) and not self._client.hlen("unacked"):
                    break
            time.sleep(_LOOK_S)
        return self._judge(self._last_end_s)

    def _judge(self, last_end_s: float) -> Outcome:
        self.stack.await_redis()
        read_ends(self._client, self.jobs, last=True)
        seconds = time.monotonic() - self._began_s
        verdict = judge(
            self.jobs,
            mail=self.stack.sandbox.mail(),
            left=left_in_broker(self._client),
            deaths=self.stack.deaths,
            seconds=seconds,
        )
        broken = self.broken + verdict.broken
        unserved = [
            f"{job.id} ({job.kind})"
            for job in self.jobs
            if job.end and job.kind not in {"SUCCESS", *self.drill.ends}
        ]
        if unserved:
            broken.append(f"not served: {len(unserved)}, such as {', '.join(unserved[:3])}")
        if self._to_send:
            broken.append(f"not sent: {len(self._to_send)} jobs")
        silences = self.silences(last_end_s)
        longest_s = max(silences, default=0.0)
        if longest_s > self.drill.silence_s:
            broken.append(f"jobs waited, keys were free, and no call was made: {longest_s:.1f} s")
        most_mb = max(self._worker_mb, default=0.0)
        if most_mb > _MOST_WORKER_MB:
            broken.append(f"a worker held {most_mb:.0f} MB")
        after_s = max(0.0, last_end_s - self._recovered_s)
        figures = verdict.figures
        line = (
            f"{self.drill.name:<16} lost {figures['lost']}, "
            f"twice {figures['emails accepted twice']}, stuck {figures['stuck']}, "
            f"idle {sum(silences):.1f} of {after_s:.1f} s (longest {longest_s:.1f} s), "
            f"memory {most_mb:.0f} MB a worker, {self._redis_mb:.0f} MB Redis; "
            f"{len(self.jobs)} jobs in {seconds:.0f} s"
        )
        for name, value in self.notes.items():
            line += f", {name} {value}"
        self.stack.deaths.clear()
        self._client.close()
        return Outcome(line, broken)
