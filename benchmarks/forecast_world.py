"""The simulated world of `python -m benchmarks.forecast`: accounts with limits, jobs, workers."""

import heapq
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from worker.keypool import BlockView, BucketView, KeyView, PoolView

NOON_MS: Final = 1_800_014_400_000
TICK_S: Final = 0.1


@dataclass
class Account:
    """An account of the simulated provider.

    Attributes:
        rpm: Calls a minute.
        tpm: Tokens a minute; 0 means no limit.
        lost_until_s: Until when its key does not serve.
    """

    rpm: float
    tpm: float = 0.0
    calls: float = field(init=False)
    tokens: float = field(init=False)
    lost_until_s: float = 0.0

    def __post_init__(self) -> None:
        self.calls, self.tokens = self.rpm, self.tpm

    def refill(self, seconds: float) -> None:
        """Refill the limits for the time that has passed."""
        self.calls = min(self.rpm, self.calls + seconds * self.rpm / 60)
        self.tokens = min(self.tpm, self.tokens + seconds * self.tpm / 60)

    def take(self, tokens: float, now_s: float) -> bool:
        """Make a call if the limits allow it."""
        if now_s < self.lost_until_s or self.calls < 1 or (self.tpm and self.tokens < tokens):
            return False
        self.calls, self.tokens = self.calls - 1, self.tokens - tokens
        return True

    def view(self, name: str, now_s: float, *, known: bool) -> KeyView:
        """Return the account as a snapshot of the pool shows it.

        Args:
            name: The name of the account.
            now_s: The present time.
            known: Whether it is known when the key comes back; otherwise a person has to reset it.
        """
        buckets = [BucketView("m", "rpm", self.rpm, self.calls, 60_000)]
        if self.tpm:
            buckets.append(BucketView("m", "tpm", self.tpm, self.tokens, 60_000))
        left_ms = round((self.lost_until_s - now_s) * 1000)
        blocks = () if left_ms <= 0 else (_block(left_ms if known else None),)
        counts = dict.fromkeys(
            ("in_flight", "calls", "accepted", "refused", "faults", "rejected", "tokens"), 0
        )
        return KeyView(
            id=name, label=name, variable="", account=name, state="ready", blocks=blocks,
            buckets=tuple(buckets), used_ms=0, **counts,
        )  # fmt: skip


def _block(left_ms: int | None) -> BlockView:
    return BlockView("key", "", "cooling" if left_ms else "disabled", "rate_limit", 0, left_ms)


@dataclass
class World:
    """Accounts, jobs and workers.

    Attributes:
        accounts: The accounts, with a key each.
        workers_per_s: How many jobs the workers can begin a second.
        known: Whether it is known when a lost key comes back.
        call_s: The minimum duration of half of the calls.
        waiting: The tokens of the waiting jobs.
        running: The ends of the running jobs.
        ends: The ends of the jobs that have ended.
    """

    accounts: list[Account]
    workers_per_s: float = 1_000.0
    known: bool = True
    call_s: float = 0.37
    now_s: float = 0.0
    waiting: deque[float] = field(default_factory=deque)
    running: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    _may_begin: float = 0.0

    def view(self) -> PoolView:
        """Take a snapshot of the pool."""
        keys = [
            account.view(f"org_{number}", self.now_s, known=self.known)
            for number, account in enumerate(self.accounts)
        ]
        return PoolView("groq", NOON_MS + round(self.now_s * 1000), tuple(keys))

    def tick(self, chance: random.Random) -> None:
        """Advance by one tick: end and begin calls."""
        self.now_s += TICK_S
        while self.running and self.running[0] <= self.now_s:
            self.ends.append(heapq.heappop(self.running))
        for account in self.accounts:
            account.refill(TICK_S)
        self._may_begin = min(self.workers_per_s, self._may_begin + self.workers_per_s * TICK_S)
        while self.waiting and self._may_begin >= 1:
            fullest = max(
                self.accounts,
                key=lambda account: (account.lost_until_s <= self.now_s) * account.calls,
            )
            if not any(
                account.take(self.waiting[0], self.now_s) for account in (fullest, *self.accounts)
            ):
                break
            self.waiting.popleft()
            self._may_begin -= 1
            heapq.heappush(self.running, self.now_s + self.call_s * chance.lognormvariate(0, 0.5))


def chance_of(seed: int) -> random.Random:
    """The random numbers for a seed."""
    return random.Random(seed)  # noqa: S311 - the same days each time


def size_of(mean: float, chance: random.Random) -> float:
    """The tokens of a job."""
    return mean * chance.uniform(0.4, 1.6)
