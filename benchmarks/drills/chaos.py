"""Nothing lost, no email twice, while everything breaks at once.

`python -m benchmarks.drills chaos`.

Real workers serve emails and completions while they are killed (SIGKILL) and replaced, Redis is
restarted twice, hangs once, and forgets its scripts and what the pool knew of the keys, calls are
cut or answered 5xx before and after the provider accepted, keys are revoked, one account runs into
its daily quota, and some messages are delivered twice. The judge is the provider sandbox's ledger,
beside the result store.

Exits with 1 if a promise was broken: a job lost or stuck, an email accepted twice by whichever
accounts, an email accepted though its job failed (other than with OutcomeUnknown), a final state
that changed, a worker that ended by itself, a failure without an honest reason.
"""

import argparse
import json
import random
import tempfile
import time
import uuid
from collections import deque
from pathlib import Path
from typing import Any

import redis
from celery import Celery
from rich.console import Console

from benchmarks.drills.house import FAULTS, House, accounts, house, settings
from benchmarks.drills.judge import Job, evidence, judge, left_in_broker, read_ends, slowest

RESULTS = Path(__file__).parents[1] / "results"
_RECIPIENT = "ann@example.com"
_TICK_S = 0.05
_TURN_S = 0.3
_LOOK_S = 1.0
_TELL_S = 5.0
_RETRY = {"max_retries": 1}
_GENTLE = 0.2  # of the workers that have to go, so many are asked to, and the others killed
_CALM = 0.95  # once so many jobs have ended, nobody is killed any more


class Producer:
    """A web application: publishes by name, again where it did not hear whether the broker has it.

    Args:
        url: The broker's.
        rate: Jobs a second.
        twice: The share of messages that are published a second time, at once or some seconds
            later.
        rng: Where chance comes from.
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
        """Everything is published."""
        return not self.waiting and not self.again

    def work(self) -> None:
        """Publish what is due."""
        now_s = time.monotonic()
        # A slow broker must not keep us from breaking things.
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
        except Exception:  # noqa: BLE001 - the broker is away, in one of many words; the message may have arrived
            self.refused += 1
            return False
        job.copies += 1
        return True


def make_jobs(emails: int, completions: int, rng: random.Random) -> list[Job]:
    """The jobs, mixed."""
    ids = [str(uuid.UUID(int=rng.getrandbits(128), version=4)) for _ in range(emails + completions)]
    jobs = [Job(one, email=number < emails) for number, one in enumerate(ids)]
    rng.shuffle(jobs)
    return jobs


class Run:
    """One run: the clock, and what happens when.

    Args:
        args: The command line.
        place: What is broken.
        say: Where progress goes.
    """

    def __init__(self, args: argparse.Namespace, place: House, say: Console) -> None:
        self.args, self.place, self.say = args, place, say
        self.rng = random.Random(args.seed)  # noqa: S311 - chance, no secret
        self.jobs = make_jobs(args.emails, args.completions, self.rng)
        self.producer = Producer(
            place.redis.url, self.jobs, rate=args.rate, twice=args.twice, rng=self.rng
        )
        self.client = redis.Redis.from_url(place.redis.url, socket_timeout=5)
        self.began_s = time.monotonic()
        self.seconds = 0.0
        self.open = list(self.jobs)
        publishing_s = len(self.jobs) / args.rate
        control = place.sandbox.control
        self.plan = deque(
            [
                (publishing_s * 0.2, "the scripts are flushed", place.flush_scripts),
                (
                    publishing_s * 0.3,
                    "Redis is killed",
                    lambda: place.restart_redis(kill=True, away_s=args.away),
                ),
                (
                    publishing_s * 0.4,
                    "what is known of the Resend keys is deleted",
                    lambda: place.forget_pool("resend"),
                ),
                (
                    publishing_s * 0.45,
                    "what is known of the Groq keys is deleted",
                    lambda: place.forget_pool("groq"),
                ),
                (
                    publishing_s * 0.5,
                    "a Groq key is revoked",
                    lambda: control("revoke", key="groq:2"),
                ),
                (
                    publishing_s * 0.6,
                    "a Resend key is revoked",
                    lambda: control("revoke", key="resend:2"),
                ),
                (publishing_s * 0.65, "Redis hangs", lambda: place.hang_redis(hang_s=args.away)),
                (
                    publishing_s * 0.8,
                    "Redis restarts",
                    lambda: place.restart_redis(kill=False, away_s=args.away),
                ),
                (publishing_s + 3, "the quota is raised, the keys are reset", self._raise_quota),
            ]
        )
        self.next_kill_s = self._after_a_while(0.0)

    def go(self) -> bool:
        """Let it happen until every job has ended and the broker is empty.

        False where the time was too short.
        """
        looked_s = told_s = 0.0
        while (now_s := time.monotonic() - self.began_s) < self.args.minutes * 60:
            self.producer.work()
            self._break_things(now_s)
            self.place.fill()
            if now_s - looked_s >= _LOOK_S:
                looked_s = now_s
                if self._look():
                    self.seconds = time.monotonic() - self.began_s
                    return True
            if now_s - told_s >= _TELL_S:
                told_s = now_s
                self._tell(now_s)
            time.sleep(_TICK_S)
        self.seconds = time.monotonic() - self.began_s
        return False

    def _break_things(self, now_s: float) -> None:
        if self.plan and now_s >= self.plan[0][0]:
            _, words, act = self.plan.popleft()
            self.place.await_redis()  # one trouble of Redis at a time
            self._note(now_s, words)
            act()
        if now_s >= self.next_kill_s and len(self.open) > len(self.jobs) * (1 - _CALM):
            if self.rng.random() < _GENTLE:
                self._note(now_s, f"{self.place.replace_one(self.rng)} is replaced")
            else:
                self._note(now_s, f"{self.place.kill_one(self.rng)} is killed")
            self.next_kill_s = self._after_a_while(now_s)

    def _raise_quota(self) -> None:
        """Emails in doubt wait for their account, whose day would end at midnight.

        An operator is quicker.
        """
        self.place.sandbox.control("limits", service="resend", account="team-3", daily=0)
        self.producer.app.send_task("tasks.admin.reset_keys", queue="admin")

    def _after_a_while(self, now_s: float) -> float:
        return now_s + self.args.kill_every * self.rng.uniform(0.5, 1.5)

    def _look(self) -> bool:
        try:
            read_ends(self.client, self.open)
            self.open = [job for job in self.open if job.end is None]
            if self.open or not self.producer.done or self.plan:
                return False
            names = ("ai", "email", "ai.deferred", "email.deferred")
            waiting = any(
                self.client.llen(name) or self.client.hlen(f"{name}.due.texts") for name in names
            )
            return not self.client.hlen("unacked") and not waiting
        except redis.RedisError:
            return False

    def _note(self, now_s: float, words: str) -> None:
        self.say.print(f"  {now_s:5.0f} s  {words}", highlight=False)

    def _tell(self, now_s: float) -> None:
        total = len(self.jobs)
        self._note(
            now_s,
            f"{total - len(self.producer.waiting)}/{total} published, {total - len(self.open)} "
            "ended,"
            f" {self.place.kills} kills, {self.place.restarts} restarts of Redis",
        )

    def report(self) -> dict[str, Any]:
        """Judge, and say it."""
        self.place.await_redis()
        read_ends(self.client, self.jobs, last=True)
        mail = self.place.sandbox.mail()
        verdict = judge(
            self.jobs,
            mail=mail,
            left=left_in_broker(self.client),
            deaths=self.place.deaths,
            seconds=self.seconds,
        )
        ledger = self.place.sandbox.ledger()
        accepted = ledger["services"]["groq"]["accepted"]
        verdict.figures |= {
            "completions made more than once": accepted - self.args.completions,
            "workers killed": self.place.kills,
            "workers replaced in order": self.place.goodbyes,
            "restarts of Redis": self.place.restarts,
            "messages published twice": self.producer.repeated,
            "publishings that failed and were tried again": self.producer.refused,
            "calls": {name: book["by_code"] for name, book in ledger["services"].items()},
        }
        self.say.rule("what became of them")
        for name, value in verdict.figures.items():
            self.say.print(f"{name:>48}  {value}", highlight=False, soft_wrap=True)
        self.say.rule("the slowest")
        for line in slowest(self.jobs, self.place.logs()):
            self.say.print(line, highlight=False, markup=False, soft_wrap=True)
        for line in evidence(self.jobs, mail, self.place.sandbox.ledger(full=True)["calls"]):
            self.say.print(line, highlight=False, markup=False, soft_wrap=True)
        self.say.rule()
        for sentence in verdict.broken:
            self.say.print(f"BROKEN  {sentence}", highlight=False, markup=False, soft_wrap=True)
        if not verdict.broken:
            self.say.print("every promise held", highlight=False)
        return {"broken": verdict.broken, **verdict.figures}


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.drills chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--quick",
        action="store_true",
        help="300 emails, 150 completions, 2 workers, well under a minute",
    )
    add("--emails", type=int, help="default: 10000")
    add("--completions", type=int, help="default: 5000")
    add("--workers", type=int, help="default: 4")
    add("--rate", type=float, help="jobs enqueued a second (default: 75)")
    add(
        "--kill-every",
        type=float,
        metavar="S",
        help="seconds between two kills, on the average (default: 8)",
    )
    add(
        "--twice",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="messages published twice (default: %(default)s)",
    )
    add(
        "--quota",
        type=int,
        help="emails a day that the third team may send (default: a tenth of the emails)",
    )
    add(
        "--rps",
        type=int,
        default=60,
        help="calls a second that each team may make (default: %(default)s); few: batches",
    )
    add(
        "--away",
        type=float,
        default=2.0,
        metavar="S",
        help="how long Redis is away or hangs (default: %(default)s)",
    )
    add("--minutes", type=float, help="what has not ended by then is stuck (default: 10)")
    add(
        "--deadline",
        type=int,
        metavar="S",
        help="each job's deadline in seconds (default: half of the time)",
    )
    add("--visibility", type=int, metavar="S", help="visibility timeout in seconds (default: 60)")
    add(
        "--lease",
        type=int,
        metavar="S",
        help="worker lease in seconds, where there is such a setting (default: 10)",
    )
    add(
        "--seed",
        type=int,
        default=1,
        help="makes jobs and trouble repeatable, though not their timing (default: 1)",
    )
    add("--keep", type=Path, metavar="FOLDER", help="leave the workers' logs and Redis' data there")
    add(
        "--results",
        type=Path,
        default=RESULTS,
        metavar="FOLDER",
        help="where the figures go (default: %(default)s)",
    )
    args = parser.parse_args(arguments)
    if args.keep and args.keep.exists() and any(args.keep.iterdir()):
        parser.error(
            f"--keep {args.keep}: is not empty"
        )  # another run's Redis would know these jobs
    long = {
        "emails": 10_000,
        "completions": 5_000,
        "workers": 4,
        "rate": 75,
        "kill_every": 8,
        "minutes": 10,
    }
    long |= {"visibility": 60, "lease": 10}
    quick = {
        "emails": 300,
        "completions": 150,
        "workers": 2,
        "rate": 45,
        "kill_every": 4,
        "minutes": 1.5,
    }
    quick |= {"visibility": 40, "lease": 5}
    for name, value in (quick if args.quick else long).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.quota is None:
        args.quota = args.emails // 10
    if args.deadline is None:
        args.deadline = round(args.minutes * 30)
    return args


def main(arguments: list[str]) -> int:
    """Run; 1 where a promise was broken."""
    args = parse(arguments)
    say = Console(width=max(140, Console().width))
    with tempfile.TemporaryDirectory(prefix="keywheel-chaos-") as temporary:
        folder = args.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        environ = settings(
            visibility_s=args.visibility, lease_s=args.lease, deadline_s=args.deadline
        )
        say.print(
            f"{args.emails} emails, {args.completions} completions, {args.workers} workers, seed "
            f"{args.seed}"
        )
        with house(
            folder,
            workers=args.workers,
            accounts=accounts(quota=args.quota, rps=args.rps),
            settings=environ,
            seed=args.seed,
        ) as place:
            for words, fault in FAULTS:
                place.sandbox.control("fault", service="groq", **fault)
                place.sandbox.control("fault", service="resend", **fault)
                say.print(f"  {words}", highlight=False)
            run = Run(args, place, say)
            if not run.go():
                say.print(f"the time is over: {len(run.open)} jobs have not ended")
            report = run.report()
    args.results.mkdir(parents=True, exist_ok=True)
    given = {name: str(value) for name, value in vars(args).items()}
    report |= {"at": time.strftime("%Y-%m-%d %H:%M:%S"), "arguments": given}
    with (args.results / "chaos.jsonl").open("a") as log:
        log.write(json.dumps(report) + "\n")
    return 1 if report["broken"] else 0
