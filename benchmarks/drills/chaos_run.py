"""One run of `python -m benchmarks.drills chaos`: the failures, and what became of the jobs."""

import argparse
import random
import time
from collections import deque
from typing import Any

import redis
from rich.console import Console

from benchmarks.drills.chaos_producer import Producer, make_jobs
from benchmarks.drills.judge import evidence, judge, left_in_broker, read_ends, slowest
from benchmarks.drills.stack import Stack

_TICK_S = 0.05
_LOOK_S = 1.0
_REPORT_S = 5.0
_GENTLE = 0.2  # this share of the workers to be ended is asked to stop; the others are killed
_CALM = 0.95  # once this share of the jobs has ended, no worker is killed any more


class Run:
    """One run: its failures, their times, and the judgement.

    Args:
        args: The command line.
        stack: The stack that is broken.
        say: The console for the progress.
    """

    def __init__(self, args: argparse.Namespace, stack: Stack, say: Console) -> None:
        self.args, self.stack, self.say = args, stack, say
        self.rng = random.Random(args.seed)  # noqa: S311 - chance, no secret
        self.jobs = make_jobs(args.emails, args.completions, self.rng)
        self.producer = Producer(
            stack.redis.url, self.jobs, rate=args.rate, twice=args.twice, rng=self.rng
        )
        self.client = redis.Redis.from_url(stack.redis.url, socket_timeout=5)
        self.began_s = time.monotonic()
        self.seconds = 0.0
        self.open = list(self.jobs)
        publishing_s = len(self.jobs) / args.rate
        control = stack.sandbox.control
        self.plan = deque(
            [
                (publishing_s * 0.2, "the scripts are flushed", stack.flush_scripts),
                (
                    publishing_s * 0.3,
                    "Redis is killed",
                    lambda: stack.restart_redis(kill=True, away_s=args.away),
                ),
                (
                    publishing_s * 0.4,
                    "the pool's state of the Resend keys is deleted",
                    lambda: stack.forget_pool("resend"),
                ),
                (
                    publishing_s * 0.45,
                    "the pool's state of the Groq keys is deleted",
                    lambda: stack.forget_pool("groq"),
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
                (publishing_s * 0.65, "Redis hangs", lambda: stack.hang_redis(hang_s=args.away)),
                (
                    publishing_s * 0.8,
                    "Redis restarts",
                    lambda: stack.restart_redis(kill=False, away_s=args.away),
                ),
                (publishing_s + 3, "the quota is raised, the keys are reset", self._raise_quota),
            ]
        )
        self.next_kill_s = self._after_a_while(0.0)

    def go(self) -> bool:
        """Run until every job has ended and the broker is empty.

        Return False if the time was too short.
        """
        looked_s = reported_s = 0.0
        while (now_s := time.monotonic() - self.began_s) < self.args.minutes * 60:
            self.producer.work()
            self._break_things(now_s)
            self.stack.fill()
            if now_s - looked_s >= _LOOK_S:
                looked_s = now_s
                if self._look():
                    self.seconds = time.monotonic() - self.began_s
                    return True
            if now_s - reported_s >= _REPORT_S:
                reported_s = now_s
                self._show_progress(now_s)
            time.sleep(_TICK_S)
        self.seconds = time.monotonic() - self.began_s
        return False

    def _break_things(self, now_s: float) -> None:
        if self.plan and now_s >= self.plan[0][0]:
            _, words, act = self.plan.popleft()
            self.stack.await_redis()  # one trouble of Redis at a time
            self._note(now_s, words)
            act()
        if now_s >= self.next_kill_s and len(self.open) > len(self.jobs) * (1 - _CALM):
            if self.rng.random() < _GENTLE:
                self._note(now_s, f"{self.stack.replace_one(self.rng)} is replaced")
            else:
                self._note(now_s, f"{self.stack.kill_one(self.rng)} is killed")
            self.next_kill_s = self._after_a_while(now_s)

    def _raise_quota(self) -> None:
        """Raise the quota, as an operator would.

        Emails in doubt wait for their account, whose quota would otherwise last until midnight.
        """
        self.stack.sandbox.control("limits", service="resend", account="team-3", daily=0)
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

    def _show_progress(self, now_s: float) -> None:
        total = len(self.jobs)
        self._note(
            now_s,
            f"{total - len(self.producer.waiting)}/{total} published, {total - len(self.open)} "
            "ended,"
            f" {self.stack.kills} kills, {self.stack.restarts} restarts of Redis",
        )

    def report(self) -> dict[str, Any]:
        """Judge the run and print the judgement."""
        self.stack.await_redis()
        read_ends(self.client, self.jobs, last=True)
        mail = self.stack.sandbox.mail()
        verdict = judge(
            self.jobs,
            mail=mail,
            left=left_in_broker(self.client),
            deaths=self.stack.deaths,
            seconds=self.seconds,
        )
        ledger = self.stack.sandbox.ledger()
        accepted = ledger["services"]["groq"]["accepted"]
        verdict.figures |= {
            "completions made more than once": accepted - self.args.completions,
            "workers killed": self.stack.kills,
            "workers replaced after a warm shutdown": self.stack.replaced,
            "restarts of Redis": self.stack.restarts,
            "messages published twice": self.producer.repeated,
            "publish attempts that failed and were repeated": self.producer.refused,
            "calls": {name: book["by_code"] for name, book in ledger["services"].items()},
        }
        self.say.rule("outcomes of the jobs")
        for name, value in verdict.figures.items():
            self.say.print(f"{name:>48}  {value}", highlight=False, soft_wrap=True)
        self.say.rule("the slowest")
        for line in slowest(self.jobs, self.stack.logs()):
            self.say.print(line, highlight=False, markup=False, soft_wrap=True)
        for line in evidence(self.jobs, mail, self.stack.sandbox.ledger(full=True)["calls"]):
            self.say.print(line, highlight=False, markup=False, soft_wrap=True)
        self.say.rule()
        for sentence in verdict.broken:
            self.say.print(f"BROKEN  {sentence}", highlight=False, markup=False, soft_wrap=True)
        if not verdict.broken:
            self.say.print("every promise held", highlight=False)
        return {"broken": verdict.broken, **verdict.figures}
